"""Make Airflow's roles, and users admin and viewer, with the passwords of the settings; safe to run again.

Run in Airflow's image by `apex container prepare-airflow`. Roles are Airflow's own; Viewer may also look at plugins, so
that a viewer sees the Apex page, as with the login of the platform on one machine.
"""

from __future__ import annotations

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.providers.fab.www.security.permissions import ACTION_CAN_READ, RESOURCE_PLUGIN
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

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
        for (name, role), password in passwords.items():
            user = security.find_user(name)
            if user:
                security.reset_password(user.id, password)
            else:
                created = security.add_user(
                    name, name, "apex", f"{name}@apex.invalid", security.find_role(role), password
                )
                if not created:
                    raise SystemExit(f"Airflow did not make the user {name}")


if __name__ == "__main__":
    main()
