"""The real platform in containers: the main job, logins, secrets, faults, and leftovers."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
from container_stack import Stack, docker

from apex_ml.contract.pipeline import DAG_KINDS
from apex_ml.pipelines import load_pipeline
from apex_ml.platform import backup as backups
from apex_ml.platform.embedded import stop
from apex_ml.settings import Settings
from tests.support.scored_tables import VOLATILE
from tests.support.throwaway_home import open_folder, throwaway
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(1800)

ROWS = 20_000
PUBLISHED = ("mlflow", "airflow-api-server", "serving")
SCORED = "SELECT state, rows_scored FROM orders.drop_summary WHERE name = '{}'"


def fault(stack: Stack, value: str) -> None:
    """Halt the next steps at a fault point; without one, let them continue."""
    stack.set(APEX_FAULT=value)
    parts = docker("inspect", "--format", "{{json .Mounts}}", stack.container("secrets"))
    assert "secrets-steps" in parts
    docker("start", "--attach", stack.container("secrets"))


def halted(stack: Stack) -> str | None:
    """The step whose process is halted."""
    for step in stack.steps():
        processes = docker("top", step, "-eo", "pid,stat,args", check=False).splitlines()[1:]
        if any(line.split()[1].startswith("T") for line in processes):
            return step
    return None


def runs(stack: Stack, dag: str) -> list[dict[str, Any]]:
    with stack.airflow("admin") as api:
        content: list[dict[str, Any]] = api.get(f"/api/v2/dags/{dag}/dagRuns", params={"limit": 50}).json()["dag_runs"]
        return content


def once_each(stack: Stack, *names: str) -> None:
    """Every drop has one row in the ledger, one run, and all its rows once."""
    listed = ", ".join(f"'{name}'" for name in names)
    rows = stack.sql(
        "SELECT d.name, d.state, count(DISTINCT d.drop_id), count(DISTINCT r.run_id), count(*), count(DISTINCT row_nr)"
        " FROM orders.drops AS d JOIN orders.scoring_runs AS r USING (drop_id) JOIN orders.scored USING (run_id)"
        f" WHERE d.name IN ({listed}) GROUP BY 1, 2 ORDER BY 1"
    )
    assert rows == [[name, "done", "1", "1", str(ROWS), str(ROWS)] for name in sorted(names)]


def left_by(stack: Stack, name: str) -> list[list[str]]:
    """What scoring a drop left in the tables, without what differs from run to run; nothing before it is scored."""
    of_drop = f"JOIN orders.drops AS d USING (drop_id) WHERE d.name = '{name}'"
    rest = f"- '{VOLATILE}'::text[])::text"
    return stack.sql(
        f"SELECT 'orders', count(*), md5(string_agg((to_jsonb(s) {rest}, ',' ORDER BY s.row_nr))"
        f" FROM orders.scored AS s JOIN orders.scoring_runs USING (run_id) {of_drop} HAVING count(*) > 0"
        f" UNION ALL SELECT 'runs', count(*), md5(string_agg((to_jsonb(r) {rest}, ','))"
        f" FROM orders.scoring_runs AS r {of_drop} HAVING count(*) > 0"
        f" UNION ALL SELECT 'classes', count(*), md5(string_agg((to_jsonb(c) {rest}, ',' ORDER BY c.predicted))"
        f" FROM orders.scoring_run_classes AS c JOIN orders.scoring_runs USING (run_id) {of_drop} HAVING count(*) > 0"
        " ORDER BY 1"
    )


def test_the_main_job(stack: Stack) -> None:
    ran = stack.ran
    assert "Challenger promoted" in ran and "version 1" in ran
    assert f"http://127.0.0.1:{stack.ports['APEX_AIRFLOW_PORT']}" in ran and "http://airflow-api-server" not in ran
    assert stack.sql("SELECT state, rows_scored, model_version FROM orders.drop_summary") == [["done", "100000", "1"]]
    [[commit]] = stack.sql("SELECT DISTINCT git_commit FROM orders.lineage")
    assert len(commit) == 40
    assert "version 1" in stack.platform("status").stdout
    assert stack.platform("sql", "-Atc", "SELECT count(*) FROM scored_current").stdout == "100000\n"
    assert until(lambda: not stack.steps(), 120, "steps end and are removed")


def test_users_have_only_their_permissions(stack: Stack) -> None:
    with stack.airflow() as anonymous, stack.airflow("viewer") as viewer, stack.airflow("admin") as admin:
        for path in ("/apex/", "/apex/orders", "/apex/data-docs/index.html", "/apex/metrics", "/api/v2/dags"):
            assert anonymous.get(path).status_code == 401, path
        for default in ("admin", "airflow"):
            assert anonymous.post("/auth/token", json={"username": "admin", "password": default}).status_code == 401
        page = viewer.get("/apex/orders")
        assert page.status_code == 200 and "100,000" in page.text
        assert viewer.get("/apex/data-docs/orders/index.html").status_code == 200
        run = {"conf": {"reason": "a test of the rights"}, "logical_date": None}
        assert viewer.post("/api/v2/dags/orders_rollback/dagRuns", json=run).status_code == 403
        assert admin.get("/apex/orders").status_code == 200
        assert admin.post("/api/v2/dags/orders_rollback/dagRuns", json=run).status_code == 200
    tracking = f"http://127.0.0.1:{stack.ports['APEX_MLFLOW_PORT']}/api/2.0/mlflow/experiments/search?max_results=5"
    assert httpx.get(tracking, trust_env=False).status_code == 401
    login = ("admin", stack.values["APEX_MLFLOW_ADMIN_PASSWORD"])
    assert httpx.get(tracking, trust_env=False, auth=login).status_code == 200


def test_the_role_of_a_pipeline_sees_and_runs_that_pipeline_alone(stack: Stack) -> None:
    password = "a-Password-0f-the-team"
    person = {"username": "team", "email": "team@apex.invalid", "first_name": "team", "last_name": "apex"}
    run = {"conf": {}, "logical_date": None}
    with stack.airflow("admin") as admin, stack.airflow() as team:
        created = admin.post("/auth/fab/v1/users", json=person | {"roles": [{"name": "flights"}], "password": password})
        assert created.status_code < 300, created.text
        login = team.post("/auth/token", json={"username": "team", "password": password})
        team.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
        dags = {dag["dag_id"] for dag in team.get("/api/v2/dags").json()["dags"]}
        assert dags == {f"flights_{kind}" for kind in DAG_KINDS}
        own = team.post("/api/v2/dags/flights_monitor/dagRuns", json=run)
        assert own.status_code == 200, own.text
        assert team.post("/api/v2/dags/orders_monitor/dagRuns", json=run).status_code == 403
        assert team.get("/api/v2/dags/orders_retrain/dagRuns").status_code == 403
        assert team.get("/apex/flights").status_code == 200
        for hidden in ("/apex/orders", "/apex/data-docs/orders/index.html"):
            assert team.get(hidden).status_code == 404, hidden
        metrics = team.get("/apex/metrics").text
        assert 'pipeline="flights"' in metrics and 'pipeline="orders"' not in metrics


def test_the_online_service(stack: Stack) -> None:
    """It answers to its key, with the champion, and the command that measures it finds it."""
    contract = load_pipeline(Settings.load()).contract
    order = dict.fromkeys(contract.named("attribute")) | {contract.entity: "C000001", contract.timestamp: "2030-01-07"}
    requested = {"rows": [order]}
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.ports['APEX_SERVING_PORT']}", trust_env=False) as client:
        assert client.post("/orders/predict", json=requested).status_code == 401
        assert client.post("/orders/predict", json=requested, headers={"X-API-Key": "apex_guessed"}).status_code == 401
        answer = client.post("/orders/predict", json=requested, headers={"X-API-Key": stack.values["APEX_SERVING_KEY"]})
    assert answer.status_code == 200, answer.text
    message = answer.json()
    assert message["model"]["version"] == 1 and len(message["predictions"]) == 1
    assert "100.0" in stack.platform("loadtest", "--rows", "2000", "--per-request", "100").stdout
    assert "serving" in stack.platform("status").stdout


def test_no_secret_is_shown(stack: Stack) -> None:
    shown = stack.ran
    everything = docker("ps", "--all", "--quiet", "--filter", f"name={stack.project}").splitlines()
    assert len(everything) >= 11
    shown += docker("inspect", *everything)
    for image in ("apex-ml:test", "apex-airflow:test"):
        shown += docker("history", "--no-trunc", image) + docker("inspect", image)
    for container in everything:
        both = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=False)
        shown += both.stdout + both.stderr
    shown += docker("exec", stack.container("airflow-api-server"), "sh", "-c", "cat $(find /var/log/airflow -type f)")
    with stack.airflow("viewer") as viewer:
        shown += (
            viewer.get("/api/v2/dags/orders_retrain/dagRuns/~/taskInstances").text + viewer.get("/apex/orders").text
        )
    assert [name for name, value in stack.secrets.items() if value in shown] == []


def test_services_have_no_privileges(stack: Stack) -> None:
    services = ("mlflow", "airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
    for service in (*services, "postgres", "docker-proxy", "serving"):
        content = json.loads(docker("inspect", stack.container(service)))[0]
        host, config = content["HostConfig"], content["Config"]
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and host["Memory"] and host["PidsLimit"], service
        assert host["RestartPolicy"]["Name"] == "unless-stopped", service
        binds = [mount["Source"] for mount in content["Mounts"] if mount["Type"] == "bind"]
        assert binds == (["/var/run/docker.sock"] if service == "docker-proxy" else []), service
        assert service == "docker-proxy" or config["User"] in ("10001:10001", "postgres"), service
        published = [part["HostIp"] for parts in content["NetworkSettings"]["Ports"].values() for part in parts or []]
        assert published == (["127.0.0.1"] if service in PUBLISHED else []), service
    observed = docker("exec", stack.container("airflow-scheduler"), "ls", "/run/secrets/apex")
    assert observed.split() == ["env"]
    for package in ("mlflow", "xgboost", "pandas", "numpy", "pyarrow", "great_expectations"):
        found_package = subprocess.run(
            ["docker", "run", "--rm", "--network", "none", "apex-airflow:test", "python3", "-c", f"import {package}"],
            capture_output=True,
            check=False,
        )
        assert found_package.returncode == 1, package


# run inside Airflow's image, on the networks of the scheduler, as a task would
RUNNER = """
import os, sys
from apex_airflow.runtimes.container import ContainerRunner
from apex_airflow.runtimes.process import StepCommand
print("pid", os.getpid(), flush=True)
print(ContainerRunner().run(StepCommand(**eval(sys.argv[1])), lambda line: print("line", line, flush=True)), flush=True)
"""


def runner(stack: Stack, command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["docker", "exec", "--env", "PYTHONPATH=/opt/apex/code/plugins", stack.container("airflow-scheduler")]
        + ["python3", "-c", RUNNER, command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_successful_and_a_failed_step(stack: Stack) -> None:
    origin = "env={'APEX_ORIGIN': 'http://127.0.0.1/a-run'}"  # without one the result is text for a user
    good, _ = runner(stack, f"dict(args=('score', '--list'), task='test.good', {origin})").communicate(timeout=120)
    assert "exit_code=0" in good and "'chunks': []" in good, good
    bad, _ = runner(stack, "dict(args=('elt', '--run', 'no-such-run'), task='test.bad')").communicate(timeout=120)
    assert "exit_code=10" in bad or "exit_code=30" in bad, bad
    late, _ = runner(stack, "dict(args=('score', '--list'), task='test.late', seconds=-29)").communicate(timeout=120)
    assert "exit_code=124" in late, late
    # others may be there: the sweep looks at the inbox
    assert stack.steps("test.good", "test.bad", "test.late") == []


def test_no_step_outlives_its_task(stack: Stack) -> None:
    """The runner is killed with kill -9: the proxy ends its step."""
    stack.pause("orders_score")
    stack.put("orphan.parquet", ROWS, 31)
    fault(stack, "score_written:halt")
    try:
        process = runner(stack, "dict(args=('score', '--drops', '[\"orphan.parquet\"]'), task='test.orphan')")
        assert process.stdout is not None
        pid = int(process.stdout.readline().removeprefix("pid "))
        step = until(lambda: halted(stack), 120, "the step is halted")
        content = json.loads(docker("inspect", step))[0]
        assert content["HostConfig"]["Memory"] == 4096 << 20 and content["HostConfig"]["ReadonlyRootfs"]
        docker("exec", stack.container("airflow-scheduler"), "sh", "-c", f"kill -9 {pid}")
        process.communicate(timeout=30)
        until(lambda: step not in stack.steps(), 20, "the gate removes the step")
    finally:
        fault(stack, "")
        stack.pause("orders_score", False)
    until(lambda: stack.sql(SCORED.format("orphan.parquet")) == [["done", str(ROWS)]], 300, "the sweep scores it")
    once_each(stack, "orphan.parquet")


def test_the_proxy_refuses_other_requests(stack: Stack) -> None:
    script = """
import json, sys
from docker import APIClient
from docker.errors import APIError
from apex_airflow.runtimes.container import container_body
from apex_airflow.runtimes.process import StepCommand
from apex_ml.settings import Settings
settings = Settings.load()
client = APIClient(base_url=settings.docker_host, version="1.41")
body = container_body(settings, StepCommand(("score", "--list"), task="x"))
def refused(call, *args):
    try:
        call(*args)
    except APIError as error:
        return error.status_code
    return 0
host = body["HostConfig"]
bodies = [
    {**body, "Image": settings.step_image.replace("ml", "airflow")},
    {**body, "Cmd": ["sh", "-c", "id"]},
    {**body, "Entrypoint": ["sh"]},
    {**body, "User": "0:0"},
    {**body, "Env": ["LD_PRELOAD=/apex/x.so"]},
    {**body, "HostConfig": {**host, "Privileged": True}},
    {**body, "HostConfig": {**host, "Binds": ["/:/host"]}},
    {**body, "HostConfig": {**host, "NetworkMode": "host"}},
    {**body, "HostConfig": {**host, "Mounts": [*host["Mounts"], {"Type": "bind", "Source": "/", "Target": "/h"}]}},
]
print(json.dumps([
    [refused(client.create_container_from_config, b, "x") for b in bodies],
    [refused(client.inspect_container, sys.argv[1]), refused(client.kill, sys.argv[1]),
     refused(client.remove_container, sys.argv[1]), refused(client.exec_create, sys.argv[1], "id"),
     refused(client.images), refused(client.info)],
    [c["Id"] for c in client.containers(all=True)],
]))
"""
    out = docker(
        "exec", "--env", "PYTHONPATH=/opt/apex/code/plugins", stack.container("airflow-scheduler"),
        "python3", "-c", script, stack.container("postgres"),
    )  # fmt: skip
    created, others, listed = json.loads(out.splitlines()[-1])
    assert created == [403] * 9
    assert set(others) <= {403, 404, 405} and stack.container("postgres") not in listed


def test_marking_a_task_as_failed_ends_its_step(stack: Stack) -> None:
    fault(stack, "score_written:halt")
    try:
        stack.put("failed.parquet", ROWS, 32)
        step = until(lambda: halted(stack), 180, "the step is halted")
        [run] = [run for run in runs(stack, "orders_score") if run["state"] == "running"]
        with stack.airflow("admin") as api:
            path = f"/api/v2/dags/orders_score/dagRuns/{run['dag_run_id']}"
            assert api.patch(path, json={"state": "failed"}).status_code == 200
        until(lambda: step not in stack.steps(), 60, "the step is ended")
    finally:
        fault(stack, "")
    until(lambda: stack.sql(SCORED.format("failed.parquet")) == [["done", str(ROWS)]], 400, "the next run scores it")
    once_each(stack, "failed.parquet")


def test_worker_and_database_are_killed_while_they_score(stack: Stack) -> None:
    """Airflow's worker and then Postgres die by kill -9 in the middle of a drop; each is scored once all the same."""
    fault(stack, "score_written:halt")
    try:
        stack.put("worker.parquet", ROWS, 33)
        step = until(lambda: halted(stack), 180, "the step is halted")
        docker("kill", stack.container("airflow-scheduler"))
        until(lambda: step not in stack.steps(), 30, "the gate removes the step")
    finally:
        fault(stack, "")
    assert stack.sql(SCORED.format("worker.parquet")) == []
    stack.platform("up")
    until(lambda: stack.sql(SCORED.format("worker.parquet")), 400, "the next scheduler scores it")

    fault(stack, "score_written:halt")
    try:
        stack.put("database.parquet", ROWS, 34)
        step = until(lambda: halted(stack), 180, "the step is halted")
        docker("kill", stack.container("postgres"))
        docker("start", stack.container("postgres"))
        until(lambda: stack.healthy("postgres"), 120, "Postgres is back")
        # its init does not pass SIGCONT on to it
        docker("exec", step, "sh", "-c", "kill -CONT -1", check=False)
    finally:
        fault(stack, "")
    until(lambda: stack.sql(SCORED.format("database.parquet")), 400, "it is tried again")
    once_each(stack, "worker.parquet", "database.parquet")
    for name, seed in (("worker", 33), ("database", 34)):
        stack.put(f"{name}-undisturbed.parquet", ROWS, seed, "none")
    for name in ("worker", "database"):
        until(lambda name=name: left_by(stack, f"{name}-undisturbed.parquet"), 400, "undisturbed")  # type: ignore[misc]
        assert left_by(stack, f"{name}.parquet") == left_by(stack, f"{name}-undisturbed.parquet")
    until(lambda: not stack.steps(), 120, "steps end and are removed")


def test_several_workers_score_each_drop_once(stack: Stack) -> None:
    stack.set(APEX_EXECUTOR="CeleryExecutor", WORKERS="2", APEX_ORDERS__SCORING__CHUNK_DROPS="1")
    stack.platform("up")
    stack.pause("orders_score")
    names = [f"scale-{number}.parquet" for number in range(4)]
    for number, name in enumerate(names):
        stack.put(name, ROWS, 40 + number)
    stack.pause("orders_score", False)
    for name in names:
        until(lambda name=name: stack.sql(SCORED.format(name)), 400, f"{name} is scored")  # type: ignore[misc]
    once_each(stack, *names)
    with stack.airflow("admin") as api:
        listed = {"dag_ids": ["orders_score"], "order_by": "-start_date", "page_limit": 50}
        tasks = api.post("/api/v2/dags/~/dagRuns/~/taskInstances/list", json=listed).json()["task_instances"]
    hosts = {task["hostname"] for task in tasks if task["task_id"] == "score" and task["map_index"] >= 0}
    workers = {
        docker("inspect", "--format", "{{.Config.Hostname}}", worker) for worker in stack.every("airflow-worker")
    }
    assert len(workers) == 2 and workers <= hosts
    stack.set(APEX_EXECUTOR="", WORKERS="", APEX_ORDERS__SCORING__CHUNK_DROPS="")
    stack.platform("down")
    stack.platform("up")


COUNTS = "SELECT count(*), count(DISTINCT run_id), sum(confidence)::numeric(12, 4) FROM orders.scored"


def test_a_backup_comes_back_on_both_runtimes(stack: Stack, tmp_path: Path) -> None:
    before = stack.sql(COUNTS)
    file = Path(stack.platform("backup", str(tmp_path)).stdout.split()[-1])
    assert file.stat().st_mode & 0o077 == 0
    assert [name for name, value in stack.secrets.items() if value.encode() in file.read_bytes()] == []
    stack.sql("DELETE FROM orders.scored")
    stack.sql("DROP VIEW orders.open_alerts CASCADE")
    stack.platform("restore", str(file))
    stack.platform("up")
    assert stack.sql(COUNTS) == before
    stack.put("after-restore.parquet", ROWS, 51)
    until(lambda: stack.sql(SCORED.format("after-restore.parquet")), 300, "the restored platform scores")
    once_each(stack, "after-restore.parquet")

    # the same file on a platform without containers: `apex restore`, and its tables are those
    with open_folder() as folder:
        settings = throwaway(folder)
        try:
            backups.restore(settings, file)
            whole = Settings.load(home=settings.home, pg_port=settings.pg_port)
            with backups._postgres_alone(whole), closing(psycopg2.connect(whole.reader_url)) as connection:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT sum(rows_scored) FROM orders.drop_summary WHERE state = 'done'")
                    [(rows,)] = cursor.fetchall()
            assert rows == int(before[0][0])
            assert list((settings.state / "mlflow" / "artifacts").rglob("model*")) != []
        finally:
            stop.destroy(settings)


def test_down_keeps_the_data(stack: Stack) -> None:
    before = stack.sql("SELECT count(*), count(DISTINCT run_id) FROM orders.scored")
    stack.platform("down")
    assert docker("ps", "--all", "--quiet", "--filter", f"name={stack.project}") == ""
    assert docker("network", "ls", "--quiet", "--filter", f"name={stack.project}") == ""
    began = time.monotonic()
    stack.platform("up")
    print(f"up again after {time.monotonic() - began:.0f} s")
    assert stack.sql("SELECT count(*), count(DISTINCT run_id) FROM orders.scored") == before


def test_the_images_hold_no_settings_of_this_machine(stack: Stack, tmp_path: Path) -> None:
    for image in ("apex-ml:test", "apex-airflow:test"):
        script = "cat /etc/pip.conf /etc/apt/sources.list /etc/uv/uv.toml /opt/apex/code/.env 2>/dev/null; true"
        assert docker("run", "--rm", "--network", "none", image, "sh", "-c", script) == "", image
