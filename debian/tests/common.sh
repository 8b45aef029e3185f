# An nginx that is installed with the package, in front of an application that counts what it creates.

set -eu

export LC_ALL=C
work=$(mktemp -d)
trap 'systemctl stop nginx 2>/dev/null || nginx -s stop 2>/dev/null || true; kill "$application" 2>/dev/null || true; rm -rf "$work"' EXIT

python3 debian/tests/application.py "$work/port" &
application=$!

until [ -s "$work/port" ]; do
    kill -0 "$application"
    sleep 0.1
done

cat >/etc/nginx/conf.d/idempotency-test.conf <<EOF
idempotency_store local {
    memory 8m;
}

server {
    listen 127.0.0.1:18080;

    location /v1/ {
        idempotency       local;
        idempotency_scope \$http_x_api_key;
        proxy_pass        http://127.0.0.1:$(cat "$work/port");
    }
}
EOF

nginx -t
# what runs already takes the new configuration
if [ -s /run/nginx.pid ] && kill -0 "$(cat /run/nginx.pid)" 2>/dev/null; then
    nginx -s reload
else
    nginx
fi

# Sends the listing with the key $1; leaves status, headers and body in "$work/response".
send() {
    curl --silent --show-error --include --retry 20 --retry-connrefused --retry-delay 1 \
        --header 'X-API-Key: test' --header "Idempotency-Key: $1" --header 'Content-Type: application/json' \
        --data '{ "assetId": "model-123" }' http://127.0.0.1:18080/v1/marketplace/listings >"$work/response"
}

# $1: a pattern that the response must have.
response_has() {
    grep -q "$1" "$work/response" || { echo "no '$1' in:"; cat "$work/response"; exit 1; }
}

response_lacks() {
    ! grep -q "$1" "$work/response" || { echo "'$1' in:"; cat "$work/response"; exit 1; }
}
