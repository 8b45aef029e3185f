// Looks at the settings of a Redis server, and warns about those that break what the module
// promises.

#pragma once

#include "nginx/nginx.h"

#include "redis/client/options.h"
#include "redis/client/query.h"
#include "core/store.h"

namespace idempotency {

// Only the first worker does so, with INFO over a connection of its own: each time that the
// server has become available, and then again from time to time, for the metrics.  A server that
// does not permit INFO is not looked at.
class RedisServerCheck final : private RedisQuery::Owner {
public:
    // Both outlive this object.
    RedisServerCheck(const RedisOptions &options, RedisServer &server) noexcept;

    // Before anything else, in a worker.  `log` outlives the object.
    void open(ngx_log_t *log) noexcept;
    void close() noexcept;

    // Checks `server` soon: no connection is opened from within.
    void check_soon(RedisServer &server) noexcept;

    const NodeInfo &info() const { return info_; }

private:
    // RedisQuery::Owner
    const char *read(RedisQuery &query, const redisReply &reply) override;
    void ended(RedisQuery &query, const char *fault, ngx_err_t error) override;

    static void on_timer(ngx_event_t *event);

    const RedisOptions &options_;
    RedisServer *server_;
    RedisQuery query_;
    NodeInfo info_;
    bool is_first_ = true;  // since the server has become available
    ngx_event_t timer_{};
};

}  // namespace idempotency
