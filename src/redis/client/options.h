// The configuration of a Redis store.

#pragma once

#include "nginx/nginx.h"

#include "redis/protocol/url.h"

namespace idempotency {

// One server.  What it points to is in the pool of the configuration, or in a
// RedisDiscoveredServer.
struct RedisServer {
    ngx_str_t name =
        ngx_null_string;  // for the log, without credentials: "host:port", "unix:/path"
    ngx_str_t host = ngx_null_string;  // a name or an address; empty: a Unix socket
    in_port_t port = 0;
    ngx_addr_t *addresses = nullptr;  // as resolved at the start
    ngx_uint_t address_count = 0;
    bool unknown = false;            // the log says that the resolver has no address
    bool is_one_of_several = false;  // a sentinel: the name has further addresses, and is not
                                     // resolved again
};

enum class RedisTopology { standalone, sentinel, cluster };

// The directives `ssl_*`; file names are absolute paths.
struct RedisTlsOptions {
    ngx_str_t trusted_certificate = ngx_null_string;  // empty: the system's
    ngx_str_t certificate = ngx_null_string;
    ngx_str_t certificate_key = ngx_null_string;
    ngx_str_t name = ngx_null_string;  // empty: the host of each server
    bool verify = true;
    ngx_uint_t protocols = 0;  // bits NGX_SSL_*; 0: not configured
};

struct RedisTls;
class RedisConnectionShare;

struct RedisOptions {
    ngx_str_t store = ngx_null_string;  // its name, for the log

    RedisServer *servers = nullptr;  // one server, or seeds of a cluster, or sentinels
    ngx_uint_t server_count = 0;
    RedisTopology topology = RedisTopology::standalone;
    ngx_str_t master = ngx_null_string;  // its name at the sentinels

    ngx_str_t user = ngx_null_string;
    ngx_str_t password = ngx_null_string;  // empty: no AUTH
    ngx_str_t sentinel_user = ngx_null_string;
    ngx_str_t sentinel_password = ngx_null_string;
    ngx_uint_t database = 0;
    ngx_str_t prefix = ngx_string("idempotency:");

    const RedisTlsOptions *tls = nullptr;  // null: no TLS
    bool tls_to_servers = false;           // to the master with `sentinel`, else as the URLs say
    bool tls_to_sentinels = false;         // as the URLs say

    // Created from `tls`.  Null: no TLS to the servers, or to the sentinels.
    RedisTls *tls_context = nullptr;
    RedisTls *sentinel_tls_context = nullptr;

    ngx_msec_t connect_timeout = 1000;
    ngx_msec_t timeout = 1000;   // of each command
    ngx_uint_t connections = 1;  // of each worker to each server
    RedisConnectionShare *share = nullptr;

    ngx_uint_t replicas = 0;  // `wait_replicas`; 0: off
    ngx_msec_t replica_wait = 0;

    // `resolver` and `resolver_timeout` of http{}, which may follow the store in the
    // configuration: so they are read in a worker.  The resolver may be null or have
    // no server; the timeout is NGX_CONF_UNSET_MSEC where it is not configured.
    ngx_resolver_t *const *resolver = nullptr;
    const ngx_msec_t *resolver_timeout = nullptr;
};

// Reads a URL of the directive `redis` into `url` and `server`, and resolves the
// host: the server has no addresses where the system does not know the host.
// Returns null, or what is wrong, in a text that never repeats the URL, which may
// have a password.  `server.name` is set as soon as the host is read, even where
// an error follows.
const char *read_redis_url(ngx_conf_t *cf, ngx_str_t text, RedisUrl &url,
                           RedisServer &server) noexcept;

}  // namespace idempotency
