#!/bin/bash
# The platform in containers, by the commands of `apex`: RUNTIME=docker make up, run, down, … call this.
# Needs a Docker engine with Compose; no Python. Variables are read from the environment, then from .env.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "apex: $1" >&2
    exit 30
}

command -v docker >/dev/null || fail "docker is not installed; \`make up\` runs the platform without it"
export APEX_ENV_FILE=${APEX_ENV_FILE:-$PWD/.env}

# the environment wins over .env, as everywhere; its lines are read as apex_ml/env_syntax.py does, but for escapes
value() {
    local given=${!1:-}
    if [[ -z $given && -f $APEX_ENV_FILE ]]; then
        given=$(LC_ALL=C sed -nE "1s/^\xEF\xBB\xBF//; s/\r\$//
            s/^[[:blank:]]*(export[[:blank:]]+)?$1[[:blank:]]*=[[:blank:]]*//p" "$APEX_ENV_FILE" | tail -n 1)
        case $given in
            \'*) given=${given#\'} && given=${given%%\'*} ;;
            \"*) given=${given#\"} && given=${given%%\"*} ;;
            *) given=$(sed -E 's/(^|[[:blank:]]+)#.*//; s/[[:blank:]]+$//' <<<"$given") ;;
        esac
    fi
    echo "${given:-$2}"
}

COMPOSE_PROJECT_NAME=$(value COMPOSE_PROJECT_NAME apex)
export COMPOSE_PROJECT_NAME
# a renamed variable is still read under its former name
proxy_user=$(value DOCKER_PROXY_USER '')
former_proxy_user=$(value DOCKER_GATE_USER '')
export DOCKER_PROXY_USER=${proxy_user:-${former_proxy_user:-0:0}}
ml=$(value APEX_STEP_IMAGE apex-ml:latest)
airflow=$(value AIRFLOW_IMAGE apex-airflow:latest)
# the pipeline that a command is about
pipeline=$(value APEX_PIPELINE '')
profiles=()
scale=()
if [[ $(value APEX_EXECUTOR LocalExecutor) == CeleryExecutor ]]; then
    profiles+=(--profile scale)
    scale=(--scale "airflow-worker=$(value WORKERS 2)")
fi
serving=1
[[ ! $(value APEX_SERVING true) =~ ^([Ff]alse|FALSE|0|[Nn]o|[Oo]ff)$ ]] || serving=0
scale+=(--scale "serving=$serving")

compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose --env-file "$APEX_ENV_FILE" "$@"
    elif command -v docker-compose >/dev/null; then
        docker-compose --env-file "$APEX_ENV_FILE" "$@"
    else
        fail "docker compose is not installed"
    fi
}

# run the command `apex` on the platform's network
tool() {
    local terminal=(-T)
    [[ ! -t 0 || ! -t 1 ]] || terminal=()
    compose run --rm "${terminal[@]}" apex ${pipeline:+-p "$pipeline"} "$@" 2> >(grep -v '^Creating ' >&2)
}

# the client that can mount secrets while it builds
builder() {
    if docker buildx version >/dev/null 2>&1; then
        echo docker buildx build --load
        return
    fi
    local client
    for client in $(type -ap docker); do
        if DOCKER_BUILDKIT=1 "$client" build --help 2>/dev/null | grep -q -- --secret; then
            echo env DOCKER_BUILDKIT=1 "$client" build
            return
        fi
    done
    fail "building needs BuildKit: install docker's buildx plugin"
}

# index and certificates of this machine's pip, for the build alone
pip_settings() {
    local folder=$1 name found
    echo '[global]' >"$folder/pip.conf"
    for name in index-url extra-index-url trusted-host; do
        found=$(printenv "PIP_$(tr a-z- A-Z_ <<<"$name")" || true)
        [[ -n $found ]] || found=$(python3 -m pip config get "global.$name" 2>/dev/null || true)
        [[ -z $found ]] || echo "$name = $found" >>"$folder/pip.conf"
    done
    local certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
    if [[ -s $certificates ]]; then
        cp "$certificates" "$folder/ca.crt"
        echo 'cert = /etc/ssl/certs/ca-certificates.crt' >>"$folder/pip.conf"
    fi
}

images() {
    local build folder target tag
    read -ra build <<<"$(builder)"
    folder=$(mktemp -d)
    # shellcheck disable=SC2064 # the folder of now
    trap "rm -rf '$folder'" EXIT
    pip_settings "$folder"
    local options=(--secret "id=pip,src=$folder/pip.conf" --network "$(value BUILD_NETWORK default)")
    [[ ! -s $folder/ca.crt ]] || options+=(--secret "id=ca,src=$folder/ca.crt")
    options+=(--build-arg "BASE_IMAGE=$(value BASE_IMAGE python:3.11-slim-bookworm)")
    options+=(--build-arg "ACCELERATOR=$(value ACCELERATOR cpu)")
    options+=(--build-arg "GIT_COMMIT=$(git rev-parse HEAD 2>/dev/null || true)")
    for target in ml airflow; do
        tag=${!target}
        echo "Building $tag"
        "${build[@]}" --quiet "${options[@]}" --target "$target" --tag "$tag" --file deployment/docker/Dockerfile . >/dev/null
    done
    rm -rf "$folder"
    trap - EXIT
}

# an image with another name comes from elsewhere; the tag of ours follows the code
ensure_images() {
    if [[ -n $(value APEX_STEP_IMAGE '') ]] && docker image inspect "$ml" "$airflow" >/dev/null 2>&1; then
        return
    fi
    images
}

secrets() {
    local made
    [[ -f $APEX_ENV_FILE ]] || (umask 077 && : >"$APEX_ENV_FILE")
    grep -q '^COMPOSE_PROJECT_NAME=' "$APEX_ENV_FILE" || echo "COMPOSE_PROJECT_NAME=$COMPOSE_PROJECT_NAME" >>"$APEX_ENV_FILE"
    made=$(docker run --rm -i --network none --log-driver none "$ml" apex container secrets --complete <"$APEX_ENV_FILE")
    if [[ $made != "$(cat "$APEX_ENV_FILE")" ]]; then
        (umask 077 && printf '%s\n' "$made" >"$APEX_ENV_FILE.new")
        mv "$APEX_ENV_FILE.new" "$APEX_ENV_FILE"
    fi
}

# for the compose file: what changes when the settings of a service do
digests() {
    local found
    found=$(docker run --rm -i --network none --log-driver none --env "APEX_PROJECT=$COMPOSE_PROJECT_NAME" \
        --env "APEX_STEP_IMAGE=$ml" "$ml" apex container digests <"$APEX_ENV_FILE")
    # shellcheck disable=SC2046,SC2086 # a line is a variable
    export $found
}

containers() {
    docker ps --all --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" "$@"
}

wait_healthy() {
    local deadline=$((SECONDS + 300)) bad waiting
    while true; do
        bad=$(containers --filter status=exited --format '{{.Names}} {{.Status}}' | grep -v 'Exited (0)' || true)
        [[ -z $bad ]] || break
        waiting=$(containers --filter health=starting --filter health=unhealthy --format '{{.Names}}')
        [[ -n $waiting ]] || return 0
        if ((SECONDS > deadline)); then
            bad=$waiting
            break
        fi
        sleep 1
    done
    local name
    name=$(head -n 1 <<<"$bad" | cut -d' ' -f1)
    docker logs --tail 15 "$name" >&2 || true
    echo "apex: TransientError: not well: $bad; its last lines are above" >&2
    exit 20
}

# what the platform was started with: the settings, the compose files, the images
fingerprint() {
    cat "$APEX_ENV_FILE" docker-compose*.yaml | sha256sum
    docker image inspect --format '{{.Id}}' "$ml" "$airflow"
    echo "${profiles[*]} ${scale[*]}"
}

all_well() {
    [[ -f $APEX_ENV_FILE.applied && $(cat "$APEX_ENV_FILE.applied") == "$(fingerprint)" ]] || return 1
    (($(containers --quiet --filter status=running | wc -l) >= 7 + serving)) || return 1
    [[ -z $(containers --quiet --filter health=starting --filter health=unhealthy) ]]
}

warn_of_former_name() {
    [[ -n $former_proxy_user ]] || return 0
    if [[ -n $proxy_user ]]; then
        echo "apex: DOCKER_GATE_USER is not read, because DOCKER_PROXY_USER, its new name, is also set; remove it" >&2
    else
        echo "apex: DOCKER_GATE_USER is now called DOCKER_PROXY_USER. It is still read; please rename it in $APEX_ENV_FILE" >&2
    fi
}

up() {
    warn_of_former_name
    ensure_images
    secrets
    if all_well; then
        echo "The platform already runs."
        return
    fi
    rm -f "$APEX_ENV_FILE.applied"
    digests
    quietly "${profiles[@]}" up --detach --no-build --remove-orphans "${scale[@]}"
    wait_healthy
    fingerprint >"$APEX_ENV_FILE.applied"
}

addresses() {
    local here=http://127.0.0.1
    echo "Airflow   $(value APEX_AIRFLOW_PUBLIC_URL "$here:$(value APEX_AIRFLOW_PORT 8080)")"
    echo "MLflow    $(value APEX_MLFLOW_PUBLIC_URL "$here:$(value APEX_MLFLOW_PORT 5000)")"
    ((!serving)) ||
        echo "Online    $(value APEX_SERVING_PUBLIC_URL "$here:$(value APEX_SERVING_PORT 8008)")  (key: APEX_SERVING_KEY in $APEX_ENV_FILE)"
    echo "SQL       RUNTIME=docker make sql"
    echo "passwords $APEX_ENV_FILE (Airflow: admin, viewer; MLflow: admin)"
}

# the pipeline that is named, or the only one; nothing when that is unclear
pipeline_or_none() {
    local files=(pipelines/*/pipeline.yaml) name=$pipeline
    [[ -n $name || ${#files[@]} -ne 1 ]] || name=$(basename "$(dirname "${files[0]}")")
    echo "$name"
}

one_pipeline() {
    local name
    name=$(pipeline_or_none)
    [[ -n $name ]] || fail "there are several pipelines: name one, P=NAME RUNTIME=docker make run"
    echo "$name"
}

# raw files of this machine become those of the pipeline
take_raw() {
    local name
    name=$(one_pipeline)
    [[ -d $1 ]] || fail "RAW=$1 is no folder"
    tar -C "$1" -c . | compose run --rm -T --entrypoint sh apex -ec '
        mkdir -p "/apex/data/$1" && cd "/apex/data/$1"
        rm -rf raw.new && mkdir raw.new && tar -C raw.new -x --no-same-owner --no-same-permissions
        rm -rf raw && mv raw.new raw' sh "$name" 2> >(grep -v '^Creating ' >&2)
}

# a drop of this machine, where `apex run` in a container finds it
take_drop() {
    [[ -f $1 ]] || fail "DROP=$1 is no file"
    compose run --rm -T --entrypoint sh apex -ec 'mkdir -p /apex/.apex/given && cat >"/apex/.apex/given/$1"' sh "${1##*/}" <"$1" \
        2> >(grep -v '^Creating ' >&2)
}

# the same file as `apex backup` writes; databases first, since files are only ever added
backup() {
    local folder=${1:-backups} scratch stamp database volumes
    mkdir -p "$folder"
    scratch=$(mktemp -d "$folder/.backup-XXXXXX")
    # shellcheck disable=SC2064 # the folder of now
    trap "rm -rf '$scratch'" EXIT
    stamp=$(date -u +%Y%m%dT%H%M%SZ)
    mkdir "$scratch/databases"
    for database in apex mlflow airflow; do
        as_admin pg_dump --format=custom --dbname="$database" >"$scratch/databases/$database.dump"
    done
    volumes=(--volume "${COMPOSE_PROJECT_NAME}_home:/apex:ro" --volume "${COMPOSE_PROJECT_NAME}_mlflow:/mlflow:ro")
    # a file may come or go meanwhile, for which tar says 1
    docker run --rm --network none "${volumes[@]}" "$ml" sh -ec '
        docs=; [ ! -d /apex/.apex/great_expectations ] || docs="-C /apex/.apex great_expectations"
        tar -c --owner=0 --group=0 --transform=s,^mlflow,artifacts, -C /apex data $docs -C / mlflow || [ $? = 1 ]
    ' >"$scratch/files.tar"
    (
        cd "$scratch"
        printf '{"format": 1, "made_at": "%s", "sha256": {' "$(date -u +%FT%T+00:00)"
        sha256sum databases/*.dump files.tar | awk '{printf "%s\"%s\": \"%s\"", (NR > 1 ? ", " : ""), $2, $1}'
        printf '}}\n'
    ) >"$scratch/manifest.json"
    (umask 077 && tar -C "$scratch" -cf "$folder/apex-$stamp.tar.new" databases files.tar manifest.json)
    mv "$folder/apex-$stamp.tar.new" "$folder/apex-$stamp.tar"
    echo "$folder/apex-$stamp.tar"
}

# a program of Postgres as its superuser; reads stdin
as_admin() {
    compose exec -T postgres sh -c '. /run/secrets/apex/env; export PGPASSWORD="$APEX_PG_ADMIN_PASSWORD"
        exec "$@" --host=127.0.0.1 --username=apex_admin' sh "$@"
}

restore() {
    [[ -f ${1:-} ]] || fail "FROM=${1:-}: there is no such file; \`make backup\` writes one"
    local scratch database expected role
    scratch=$(mktemp -d)
    # shellcheck disable=SC2064 # the folder of now
    trap "rm -rf '$scratch'" EXIT
    tar -C "$scratch" -xf "$1" 2>/dev/null || fail "$1 is no backup of Apex"
    for database in apex mlflow airflow; do
        expected=$(grep -o "\"databases/$database.dump\": \"[0-9a-f]*\"" "$scratch/manifest.json" | cut -d'"' -f4)
        [[ $(sha256sum "$scratch/databases/$database.dump" | cut -d' ' -f1) == "$expected" ]] || fail "$1: $database.dump is damaged"
    done
    ensure_images
    secrets
    stop
    quietly up --detach --no-build postgres
    wait_healthy
    for database in apex mlflow airflow; do
        as_admin psql -X -q -d postgres -c "DROP DATABASE IF EXISTS \"$database\" WITH (FORCE)"
    done
    quietly run --rm -T prepare-postgres
    # the reader of a pipeline whose file is gone has no role here; the dump grants it views
    for role in $(compose exec -T postgres pg_restore --schema-only --file=- <"$scratch/databases/apex.dump" |
        grep -oE ' TO "?[a-z][a-z0-9_]*_reader"?;$' | tr -d '"; ' | sed 's/^TO//' | sort -u); do
        [[ $(as_admin psql -X -q -At -d postgres -c "SELECT 1 FROM pg_roles WHERE rolname = '$role'") == 1 ]] ||
            as_admin psql -X -q -d postgres -c "CREATE ROLE \"$role\" NOLOGIN NOINHERIT"
    done
    for database in apex mlflow airflow; do
        as_admin pg_restore --exit-on-error --dbname="$database" <"$scratch/databases/$database.dump"
    done
    # the home's volume is made by the image, with its owner
    docker run --rm -i --network none --volume "${COMPOSE_PROJECT_NAME}_home:/apex" --volume "${COMPOSE_PROJECT_NAME}_mlflow:/var/lib/mlflow" \
        "$ml" sh -ec '
            rm -rf /apex/.restore && mkdir /apex/.restore
            tar -C /apex/.restore -x --no-same-owner --no-same-permissions
            cd /apex/.restore
            if [ -d data ]; then rm -rf /apex/data.before && mv /apex/data /apex/data.before && mv data /apex/data; fi
            mkdir -p /apex/.apex
            if [ -d great_expectations ]; then rm -rf /apex/.apex/great_expectations && mv great_expectations /apex/.apex/; fi
            if [ -d artifacts ]; then find /var/lib/mlflow -mindepth 1 -delete && cp -R artifacts/. /var/lib/mlflow/; fi
            rm -rf /apex/.restore' <"$scratch/files.tar"
    stop
    echo "Restored. \`RUNTIME=docker make up\` brings the platform up."
}

# compose without its progress lines, unless it fails
quietly() {
    local output
    if ! output=$(compose "$@" 2>&1); then
        echo "$output" >&2
        local name
        for name in $(containers --quiet --filter health=unhealthy); do
            docker inspect --format '{{.Name}}: {{range .State.Health.Log}}{{.Output}}{{end}}' "$name" | tail -n 5 >&2
            docker logs --tail 15 "$name" >&2
        done
        echo "apex: TransientError: compose $1 failed, see above; \`RUNTIME=docker make logs S=SERVICE\` shows more" >&2
        exit 20
    fi
}

stop() {
    quietly --profile scale --profile tools --profile gpu down --remove-orphans "$@"
    # a step that lost its Airflow just now
    docker ps --all --quiet --filter "label=apex.step=$COMPOSE_PROJECT_NAME" | xargs --no-run-if-empty docker rm --force >/dev/null
}

# read as a whole before it runs: an upgrade may replace this file meanwhile
main() {
    local command terminal
    if [[ ${1:-} == -p ]]; then
        pipeline=${2:?-p needs the name of a pipeline}
        shift 2
    fi
    command=${1:-}
    [[ $# -eq 0 ]] || shift
    case $command in
        up)
            up
            tool container repair
            addresses
            ;;
        run)
            local options=()
            up
            while [[ $# -gt 0 ]]; do
                case $1 in
                    --raw) take_raw "$2" && shift 2 ;;
                    --drop) take_drop "$2" && options+=(--drop "/apex/.apex/given/${2##*/}") && shift 2 ;;
                    *) options+=("$1") && shift ;;
                esac
            done
            tool run "${options[@]}"
            ;;
        remove-drop | retrain | champion | score | rollback | promote | export | prune | monitor | loadtest | unpause)
            tool "$command" "$@"
            ;;
        down)
            stop "$@"
            echo "The platform is down."
            ;;
        status)
            compose ps
            tool status "$@"
            ;;
        logs)
            if [[ $# -eq 0 ]]; then
                compose ps --services
            else
                compose logs --tail 100 "$@"
            fi
            ;;
        sql)
            terminal=()
            [[ -t 0 && -t 1 ]] || terminal=(-T)
            # names without a schema are those of the pipeline, or of what is about all
            terminal+=(--env "PGOPTIONS=-c search_path=$(pipeline_or_none | grep . || echo apex)")
            # the reader's password is asked of Postgres' own copy of the secrets
            compose exec "${terminal[@]}" postgres sh -c '. /run/secrets/apex/env; export PGPASSWORD="$APEX_PG_READER_PASSWORD"
                exec psql -X -h 127.0.0.1 -U apex_reader -d apex "$@"' psql "$@"
            ;;
        backup)
            backup "$@"
            ;;
        restore)
            restore "$@"
            ;;
        mlflow-ui)
            tool mlflow-ui
            ;;
        secrets)
            docker image inspect "$ml" >/dev/null 2>&1 || images
            secrets
            ;;
        images)
            images
            ;;
        *)
            fail "$command is no command of the platform in containers: up, run, retrain, down, status, logs, sql, mlflow-ui, backup, restore, secrets, images"
            ;;
    esac
}
main "$@"; exit
