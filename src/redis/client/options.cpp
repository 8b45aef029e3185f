#include "redis/client/options.h"

#include <cstring>

#include "nginx/secret_memory.h"

namespace idempotency {

namespace {

// Writes the host as ngx_parse_url reads it, without the port.
bool write_host(ngx_pool_t *pool, const RedisUrl &url, ngx_str_t &out)
{
    bool ipv6 = url.host.find(':') != std::string_view::npos;
    ngx_str_t host = to_ngx(url.host);
    const char *format = url.unix_socket ? "unix:%V" : ipv6 ? "[%V]" : "%V";

    out.data = static_cast<u_char *>(ngx_pnalloc(pool, host.len + sizeof("unix:")));

    if (out.data == nullptr) {
        return false;
    }

    out.len = static_cast<std::size_t>(ngx_sprintf(out.data, format, &host) - out.data);
    return true;
}

// Writes the name of the server for the log.
bool write_name(ngx_pool_t *pool, const RedisUrl &url, const ngx_str_t &host, ngx_str_t &out)
{
    if (url.unix_socket) {
        out = host;
        return true;
    }

    out.data = static_cast<u_char *>(ngx_pnalloc(pool, host.len + sizeof(":65535")));

    if (out.data == nullptr) {
        return false;
    }

    ngx_uint_t port = url.port;

    out.len = static_cast<std::size_t>(
        ngx_sprintf(out.data, "%V:%ui", const_cast<ngx_str_t *>(&host), port) - out.data);
    return true;
}

const char *resolve(ngx_conf_t *cf, const RedisUrl &url, RedisServer &server)
{
    ngx_url_t parsed;

    ngx_memzero(&parsed, sizeof(parsed));
    parsed.default_port = url.port;

    if (!write_host(cf->pool, url, parsed.url)
        || !write_name(cf->pool, url, parsed.url, server.name)) {
        return "no memory";
    }

    if (!url.unix_socket) {
        server.host = to_ngx(url.host);
        server.port = url.port;
    }

    if (ngx_parse_url(cf->pool, &parsed) != NGX_OK) {
        if (parsed.err != nullptr && std::strcmp(parsed.err, "host not found") == 0) {
            return nullptr;
        }

        return parsed.err != nullptr ? parsed.err : "the host cannot be resolved";
    }

    server.addresses = parsed.addrs;
    server.address_count = parsed.naddrs;
    return nullptr;
}

}  // namespace

const char *read_redis_url(ngx_conf_t *cf, ngx_str_t text, RedisUrl &url,
                           RedisServer &server) noexcept
{
    bool may_have_password = view(text).find('@') != std::string_view::npos;
    auto buffer = static_cast<char *>(may_have_password ? allocate_secret(cf->pool, text.len + 1)
                                                        : ngx_pnalloc(cf->pool, text.len + 1));

    if (buffer == nullptr) {
        return "no memory";
    }

    const char *fault =
        parse_redis_url({reinterpret_cast<char *>(text.data), text.len}, buffer, url);

    return fault != nullptr ? fault : resolve(cf, url, server);
}

}  // namespace idempotency
