#!/bin/sh
# Makes the secrets that compose.yaml names, but for nginx's certificate and key. What is there already stays.
set -eu
cd "$(dirname "$0")"
# Nobody but the owner may enter the folder. The files in it are mounted one by one, and read by several accounts.
umask 022
mkdir -p -m 700 secrets
cd secrets

keep() {
    [ -e "$1" ] || printf '%s\n' "$2" > "$1"
}

# Assigned first: elsewhere the shell would not stop where openssl fails.
key=$(openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256)
keep signing_key "$key"
word=$(openssl rand -hex 24)
keep database_password "$word"
keep database_url "postgresql://gateway:$(cat database_password)@postgres/gateway"
word=$(openssl rand -hex 24)
keep redis_conf "requirepass $word"
keep redis_url "redis://:$(cut -d ' ' -f 2 redis_conf)@redis:6379/0"
word=$(openssl rand -hex 24)
keep registry.env "REGISTRY_HTTP_SECRET=$word"
