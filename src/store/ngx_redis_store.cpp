#include "store/ngx_redis_store.h"

#include <new>

#include "core/wire.h"
#include "store/redis_url.h"

namespace idempotency {

namespace {

ngx_str_t to_ngx(std::string_view text)
{
    ngx_str_t out;

    out.len = text.size();
    out.data = reinterpret_cast<u_char *>(const_cast<char *>(text.data()));
    return out;
}

// What ngx_parse_url reads: the port is given apart.
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

// The server as the log names it.
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

const char *resolve(ngx_conf_t *cf, const RedisUrl &url, RedisOptions &options)
{
    ngx_url_t parsed;

    ngx_memzero(&parsed, sizeof(parsed));
    parsed.default_port = url.port;

    if (!write_host(cf->pool, url, parsed.url)
        || !write_name(cf->pool, url, parsed.url, options.name))
    {
        return "no memory";
    }

    if (ngx_parse_url(cf->pool, &parsed) != NGX_OK) {
        return parsed.err != nullptr ? parsed.err : "the host cannot be resolved";
    }

    options.addresses = parsed.addrs;
    options.address_count = parsed.naddrs;
    return nullptr;
}

class RedisStore final : public Store {
public:
    // `connections` has room for options.connections of them.
    RedisStore(const RedisOptions &options, RedisConnection *connections) noexcept
        : options_(options), connections_(connections)
    {
        for (ngx_uint_t i = 0; i < options_.connections; i++) {
            new (&connections_[i]) RedisConnection(options_, scripts_, down_);
        }
    }

    ~RedisStore() override
    {
        for (ngx_uint_t i = 0; i < options_.connections; i++) {
            connections_[i].~RedisConnection();
        }
    }

    bool usable() const { return scripts_.usable(); }

    bool open() override
    {
        for (ngx_uint_t i = 0; i < options_.connections; i++) {
            connections_[i].open(ngx_cycle->log);
        }

        return true;
    }

    void close() override
    {
        for (ngx_uint_t i = 0; i < options_.connections; i++) {
            connections_[i].close();
        }
    }

    bool start(Call &call) override { return connection_of(call.id).start(call); }

    // Any connection will do: what has been settled is not renewed, whichever
    // of the two Redis sees first.
    void renew(const Lease *leases, std::size_t count) override
    {
        for (ngx_uint_t i = 0; i < options_.connections; i++) {
            if (connections_[i].renew(leases, count)) {
                return;
            }
        }
    }

private:
    // One key, one connection: its commands keep their order.
    RedisConnection &connection_of(const KeyId &id)
    {
        return connections_[wire::get_u64(id.bytes.data()) % options_.connections];
    }

    RedisOptions options_;
    RedisScripts scripts_;
    RedisConnection *connections_;
    ngx_uint_t down_ = 0;       // how many of them are
};

void destroy(void *store) { static_cast<RedisStore *>(store)->~RedisStore(); }

}  // namespace

const char *read_redis_url(ngx_conf_t *cf, ngx_str_t url, RedisOptions &options) noexcept
{
    auto room = static_cast<char *>(ngx_pnalloc(cf->pool, url.len + 1));

    if (room == nullptr) {
        return "no memory";
    }

    RedisUrl parsed;
    const char *fault = parse_redis_url({reinterpret_cast<char *>(url.data), url.len}, room,
                                        parsed);

    if (fault != nullptr) {
        return fault;
    }

    // never fall back to what everybody on the way can read
    if (parsed.tls) {
        return "TLS to Redis is not supported: use \"redis://\"";
    }

    options.user = to_ngx(parsed.user);
    options.password = to_ngx(parsed.password);
    options.database = parsed.database;
    options.has_database = parsed.has_database;
    return resolve(cf, parsed, options);
}

Store *create_redis_store(ngx_pool_t *pool, ngx_log_t *log, const RedisOptions &options) noexcept
{
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(pool, sizeof(RedisStore));
    auto connections = static_cast<RedisConnection *>(
        ngx_palloc(pool, options.connections * sizeof(RedisConnection)));

    if (cleanup == nullptr || connections == nullptr) {
        return nullptr;
    }

    auto store = new (cleanup->data) RedisStore(options, connections);

    cleanup->handler = destroy;

    if (!store->usable()) {
        ngx_log_error(NGX_LOG_EMERG, log, 0, "idempotency: OpenSSL has no SHA-1");
        return nullptr;
    }

    return store;
}

}  // namespace idempotency
