// The steps of a walk over the keys of one Redis server (SCAN).

#pragma once

#include "nginx/nginx.h"

#include <string_view>

#include "core/store.h"
#include "redis/client/options.h"
#include "redis/client/query.h"

namespace idempotency {

// Each step has a connection of its own: requests do not wait behind SCAN.
class RedisKeyScan final : private RedisQuery::Owner {
public:
    // `options` outlives this object.
    explicit RedisKeyScan(const RedisOptions &options) noexcept;
    RedisKeyScan(const RedisKeyScan &) = delete;
    RedisKeyScan &operator=(const RedisKeyScan &) = delete;

    // Before anything else, in a worker.  `log` outlives this object.
    void open(ngx_log_t *log) noexcept;

    // A step that is being made ends as failed.
    void close() noexcept;

    // Makes one step, see Store::walk: a SCAN of `server` from WalkStep::position on.  After the
    // last one WalkStep::part is the next part, and `is_last_part` says whether that was all.
    bool start(WalkStep &step, RedisServer &server, bool is_last_part) noexcept;

    bool busy() const { return query_.busy(); }

private:
    // RedisQuery::Owner
    const char *read(RedisQuery &query, const redisReply &reply) override;
    void ended(RedisQuery &query, const char *fault, ngx_err_t error) override;

    bool make_pattern() noexcept;
    void report(std::string_view name) noexcept;

    const RedisOptions &options_;
    RedisQuery query_;
    ngx_log_t *log_ = nullptr;
    WalkStep *step_ = nullptr;
    bool is_last_part_ = false;
    bool is_starting_ = false;
    char cursor_[24];
    char pattern_[512];
    std::size_t pattern_size_ = 0;
    std::string_view words_[6];
};

}  // namespace idempotency
