#include "http/config/connection_limits.h"

#include "redis/client/connection_share.h"

namespace idempotency {

void limit_redis_connections(ngx_cycle_t *cycle, const MainConfig &main)
{
    auto **slots = static_cast<StoreSlot **>(main.stores.elts);
    ngx_uint_t max = cycle->connection_n / 2;
    ngx_uint_t fixed = 0;
    ngx_uint_t named = 0;
    ngx_uint_t clusters = 0;

    for (ngx_uint_t i = 0; i < main.stores.nelts; i++) {
        if (slots[i]->redis_share != nullptr) {
            slots[i]->redis_share->add_to(fixed, named, clusters);
        }
    }

    bool is_scarce = named > max;
    ngx_uint_t of_cluster = clusters > 0 && fixed < max ? (max - fixed) / clusters : 0;

    // with none, a cluster would never be available
    of_cluster = ngx_max(of_cluster, 1);

    for (ngx_uint_t i = 0; i < main.stores.nelts; i++) {
        if (slots[i]->redis_share != nullptr) {
            slots[i]->redis_share->set_limits(max, of_cluster, is_scarce);
        }
    }

    if (is_scarce) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "\"worker_connections %ui\" is few for the stores of "
                      "\"ngx_http_idempotency_module\": each worker may need %ui connections to "
                      "Redis, and opens %ui at most, when requests need them; set "
                      "\"worker_connections\" to more than %ui",
                      cycle->connection_n, named, max, 2 * named);
    }
}

}  // namespace idempotency
