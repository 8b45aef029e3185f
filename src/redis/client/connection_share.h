// How many connections to Redis a worker may open.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// Of one store.  All stores together have half of `worker_connections`, so that a store with
// very many nodes, or very many stores, leave connections for clients.  Nothing here allocates;
// a worker is one thread.
class RedisConnectionShare {
public:
    enum class Use {
        calls,  // for the commands of requests
        query,  // to find or check servers: few, but without them there is no recovery
    };

    // `fixed`: as many as the store may need, if that is known from the configuration; 0: a
    // cluster, whose nodes tell.  `named`: the same, for the servers of the configuration.
    RedisConnectionShare(ngx_uint_t fixed, ngx_uint_t named) noexcept : fixed_(fixed), named_(named)
    {}

    // False where no further connection may be opened.
    bool take(Use use) noexcept;
    void give_back() noexcept;

    // Connections are opened only when a request needs them, and closed when they are idle:
    // not all stores can have theirs at the same time.
    static bool is_scarce() noexcept { return all().scarce; }

    // What all stores may need, added to `sum`; the number of clusters, added to `clusters`.
    void add_to(ngx_uint_t &fixed, ngx_uint_t &named, ngx_uint_t &clusters) const noexcept;

    // Before the workers start, once for each store.  `max` is for all stores; `of_cluster` is
    // for each cluster.
    void set_limits(ngx_uint_t max, ngx_uint_t of_cluster, bool scarce) noexcept;

private:
    struct All {
        ngx_uint_t used = 0;
        ngx_uint_t max = NGX_MAX_UINT32_VALUE;
        bool scarce = false;
    };

    static All &all() noexcept;

    ngx_uint_t fixed_;
    ngx_uint_t named_;
    ngx_uint_t used_ = 0;
    ngx_uint_t max_ = NGX_MAX_UINT32_VALUE;
};

}  // namespace idempotency
