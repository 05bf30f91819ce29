"""Make Airflow's roles, one for each pipeline, and users admin and viewer with their passwords; safe to run again.

Run in Airflow's image by `apex container prepare-airflow`. Roles are Airflow's own; Viewer may also look at plugins, so
that a viewer sees the Apex page, as with the login of the platform on one machine. The role of a pipeline has its name
and may see and trigger the DAGs of that pipeline alone.
"""

from __future__ import annotations

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.providers.fab.www.security.permissions import ACTION_CAN_READ, RESOURCE_PLUGIN
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from apex_ml.pipeline_settings import settings_by_pipeline
from apex_ml.platform.containers.roles import role_permissions
from apex_ml.settings import Settings


@providers_configuration_loaded
def main() -> None:
    """Bring users, roles and passwords to what the settings say."""
    settings = Settings.load()
    passwords = {
        ("admin", "Admin"): settings.airflow_admin_password.get_secret_value(),
        ("viewer", "Viewer"): settings.airflow_viewer_password.get_secret_value(),
    }
    with get_application_builder() as builder:
        security = builder.sm
        builder.add_permissions(update_perms=True)
        security.sync_roles()
        security.add_permission_to_role(
            security.find_role("Viewer"), security.create_permission(ACTION_CAN_READ, RESOURCE_PLUGIN)
        )
        for pipeline in settings_by_pipeline(settings):
            role = security.add_role(pipeline)
            for action, resource in role_permissions(pipeline, security.VIEWER_PERMISSIONS):
                security.add_permission_to_role(role, security.create_permission(action, resource))
        for (name, role_name), password in passwords.items():
            user = security.find_user(name)
            if user:
                security.reset_password(user.id, password)
            else:
                created = security.add_user(
                    name, name, "apex", f"{name}@apex.invalid", security.find_role(role_name), password
                )
                if not created:
                    raise SystemExit(f"Airflow did not make the user {name}")


if __name__ == "__main__":
    main()
