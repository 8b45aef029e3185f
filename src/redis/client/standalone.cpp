#include "redis/client/create_store.h"

#include <new>

#include "redis/client/cluster.h"
#include "redis/client/connection_share.h"
#include "redis/client/key_scan.h"
#include "redis/client/node.h"
#include "redis/client/sentinel.h"

namespace idempotency {

namespace {

// The store that is a single Redis server.
class RedisStandalone final : public Store, private RedisNode::Owner {
public:
    explicit RedisStandalone(const RedisOptions &options) noexcept
        : options_(options), node_(options_, options_.servers[0], scripts_, *this), scan_(options_)
    {}

    const char *fault() const
    {
        return !scripts_.usable() ? "OpenSSL has no SHA-1"
               : !node_.usable()  ? "no memory"
                                  : nullptr;
    }

    bool open() override
    {
        node_.open(ngx_cycle->log, RedisConnectionShare::is_scarce());
        scan_.open(ngx_cycle->log);
        return true;
    }

    void close() override
    {
        scan_.close();
        node_.close();
    }

    void watch(StoreWatcher *watcher) override { watcher_ = watcher; }

    StoreFigures figures() override
    {
        StoreFigures figures;

        figures.engine = "redis";
        figures.up = node_.is_available();
        return figures;
    }

    std::size_t nodes(NodeState *out, std::size_t max) override
    {
        if (max > 0) {
            out[0] = node_.state();
        }

        return max > 0 ? 1 : 0;
    }

    bool start(Call &call) override { return node_.start(call); }
    bool walk(WalkStep &step) override { return scan_.start(step, node_.server(), true); }

private:
    void node_available(RedisNode &) override
    {
        if (watcher_ != nullptr) {
            watcher_->store_is_back();
        }
    }

    RedisOptions options_;
    RedisScripts scripts_;
    RedisNode node_;
    RedisKeyScan scan_;
    StoreWatcher *watcher_ = nullptr;
};

template <typename Made>
void destroy(void *store)
{
    static_cast<Made *>(store)->~Made();
}

template <typename Made>
Store *create(ngx_pool_t *pool, ngx_log_t *log, const RedisOptions &options)
{
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(pool, sizeof(Made));

    if (cleanup == nullptr) {
        return nullptr;
    }

    auto store = new (cleanup->data) Made(options);

    cleanup->handler = destroy<Made>;

    if (store->fault() != nullptr) {
        ngx_log_error(NGX_LOG_EMERG, log, 0, "idempotency: the redis store cannot be created: %s",
                      store->fault());
        return nullptr;
    }

    return store;
}

}  // namespace

Store *create_redis_store(ngx_pool_t *pool, ngx_log_t *log, const RedisOptions &options) noexcept
{
    switch (options.topology) {
    case RedisTopology::cluster:
        return create<RedisCluster>(pool, log, options);

    case RedisTopology::sentinel:
        return create<RedisSentinel>(pool, log, options);

    case RedisTopology::standalone:
        break;
    }

    return create<RedisStandalone>(pool, log, options);
}

}  // namespace idempotency
