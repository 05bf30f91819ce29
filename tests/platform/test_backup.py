"""Backup and restore without containers; with them, and from one to the other, in tests/docker/engine."""

from __future__ import annotations

import os
import tarfile
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from apex_ml.adapters.postgres.migrations import migrate
from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_pipeline
from apex_ml.platform import backup
from apex_ml.platform.embedded import stop
from apex_ml.platform.embedded.env_file import ensure_env
from apex_ml.platform.embedded.postgres.databases import ensure_databases
from apex_ml.platform.embedded.postgres.process import superuser_connection
from apex_ml.settings import Settings
from tests.support.schema import SCHEMA
from tests.support.throwaway_home import open_folder, throwaway


def alerts(settings: Settings) -> list[str]:
    with closing(psycopg2.connect(settings.reader_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT subject FROM orders.open_alerts ORDER BY 1")
        return [subject for (subject,) in cursor.fetchall()]


def raise_alert(settings: Settings, subject: str) -> None:
    from apex_ml.adapters.postgres.alerts import raise_alert

    raise_alert(settings, SCHEMA, "late", subject, "made by a test")


@pytest.mark.platform
def test_a_backup_can_be_restored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_folder() as folder:
        settings = ensure_env(throwaway(folder))
        drop = settings.home / "data" / "orders" / "drops" / "done" / "a.parquet"
        artifact = settings.state / "mlflow" / "artifacts" / "1" / "model.bin"
        for path in (drop, artifact):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)
        (folder / "elsewhere").mkdir()
        (folder / "elsewhere" / "b.parquet").write_text("b")
        drop.with_name("link.parquet").symlink_to(folder / "elsewhere" / "b.parquet")
        drop.with_name("dead.parquet").symlink_to(folder / "none")
        os.mkfifo(drop.with_name("pipe.parquet"))
        (settings.home / "data" / "orders" / "raw").symlink_to(folder / "elsewhere")
        try:
            with backup._postgres_alone(settings) as server:
                ensure_databases(settings, server)
                migrate(settings, load_pipeline(settings))
                with closing(superuser_connection(settings, server, "apex")) as connection, connection:
                    connection.cursor().execute(
                        "CREATE ROLE gone_reader; GRANT SELECT ON orders.drop_summary TO gone_reader"
                    )
                raise_alert(settings, "kept")
                file = backup.backup(settings, tmp_path)
                raise_alert(settings, "after the backup")
                assert alerts(settings) == ["after the backup", "kept"]
            left_out = [record.getMessage() for record in caplog.records if "left out of the backup" in record.msg]
            for name in ("dead.parquet is a link to", "pipe.parquet is neither a file nor", "raw is a link to"):
                assert sum(name in text for text in left_out) == 1, left_out
            assert len(left_out) == 3
            with backup._postgres_alone(settings) as server:  # a new server has no role of a pipeline that is gone
                with closing(superuser_connection(settings, server, "apex")) as connection, connection:
                    connection.cursor().execute("DROP OWNED BY gone_reader; DROP ROLE gone_reader")
            drop.write_text("changed")
            artifact.unlink()
            assert file.stat().st_mode & 0o077 == 0
            backup.restore(settings, file)
            assert (drop.read_text(), artifact.read_text()) == ("a.parquet", "model.bin")
            assert sorted(path.name for path in drop.parent.iterdir()) == ["a.parquet", "link.parquet"]
            assert drop.with_name("link.parquet").read_text() == "b"
            assert not drop.with_name("link.parquet").is_symlink()
            assert (settings.home / "data.before" / "orders" / "drops" / "done" / "a.parquet").read_text() == "changed"
            with backup._postgres_alone(settings) as server:
                assert alerts(settings) == ["kept"]
                readable = "SELECT has_table_privilege('gone_reader', 'orders.drop_summary', 'SELECT')"
                with closing(superuser_connection(settings, server, "apex")) as connection:
                    cursor = connection.cursor()
                    cursor.execute(readable)
                    assert cursor.fetchall() == [(True,)]
                raise_alert(settings, "the writer still owns its tables")
        finally:
            stop.destroy(settings)


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.tar", "there is no such file"), ("text.tar", "is no backup of Apex"), ("empty.tar", "is no backup")],
)
def test_an_invalid_backup_changes_nothing(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.tar").write_text("text")
    tarfile.open(tmp_path / "empty.tar", "w").close()
    with pytest.raises(ConfigError, match=message):
        backup.restore(Settings.load(home=tmp_path / "home", env_file=tmp_path / "env"), tmp_path / name)


def test_what_leads_out_of_a_backup_is_not_restored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As `make backup` of containers and of earlier versions stores it."""
    source = tmp_path / "data"
    source.mkdir()
    (source / "a").write_text("a")
    (source / "outside").symlink_to("/etc")
    os.mkfifo(source / "pipe")
    with tarfile.open(tmp_path / "files.tar", "w") as archive:
        archive.add(source, "data")
    backup._extract(tmp_path / "files.tar", tmp_path / "restored")
    assert [path.name for path in (tmp_path / "restored" / "data").iterdir()] == ["a"]
    assert sorted(record.getMessage().split(" in the backup")[0] for record in caplog.records) == [
        "not restored: data/outside is a link to /etc",
        "not restored: data/pipe is neither a file nor a folder",
    ]


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "files.tar").write_text("other")
    (tmp_path / "manifest.json").write_text('{"format": 1, "sha256": {"files.tar": "00ff"}}')
    with tarfile.open(tmp_path / "backup.tar", "w") as archive:
        for name in ("files.tar", "manifest.json"):
            archive.add(tmp_path / name, name)
    with pytest.raises(ConfigError, match="files.tar is damaged"), backup.opened(tmp_path / "backup.tar"):
        pass


def test_other_databases_are_not_touched(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, env_file=tmp_path / "env", pg_host="elsewhere")
    with pytest.raises(ConfigError, match="run by others"):
        backup.backup(settings, tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings.load(home=tmp_path, env_file=tmp_path / "env")
    with pytest.raises(ConfigError, match=r"TO=\S+/file/x: cannot be made: Not a directory"):
        backup.backup(settings, tmp_path / "file" / "x")
