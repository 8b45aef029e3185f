#include "store/ngx_redis_store.h"

#include <new>

#include "core/wire.h"
#include "store/ngx_redis_connection.h"

namespace idempotency {

namespace {

class RedisStore final : public Store, private RedisConnection::Owner {
public:
    // `connections` has room for options.connections of them.
    RedisStore(const RedisOptions &options, RedisConnection *connections) noexcept
        : options_(options), connections_(connections)
    {
        for (ngx_uint_t i = 0; i < options_.connections; i++) {
            new (&connections_[i]) RedisConnection(options_, options_.servers[0], scripts_, *this);
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

    bool start(Call &call) override
    {
        RedisConnection &connection = connection_of(call.id);

        return connection.start(call, connection.deadline());
    }

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
    // RedisConnection::Owner
    bool down(RedisConnection &) override { return down_++ == 0; }
    bool up(RedisConnection &) override { return --down_ == 0; }
    void read_only(RedisConnection &) override {}

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
