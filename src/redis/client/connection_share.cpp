#include "redis/client/connection_share.h"

namespace idempotency {

RedisConnectionShare::All &RedisConnectionShare::all() noexcept
{
    static All all;

    return all;
}

bool RedisConnectionShare::take(Use use) noexcept
{
    if (all().used >= all().max || (use == Use::calls && used_ >= max_)) {
        return false;
    }

    all().used++;
    used_++;
    return true;
}

void RedisConnectionShare::give_back() noexcept
{
    all().used--;
    used_--;
}

void RedisConnectionShare::add_to(ngx_uint_t &fixed, ngx_uint_t &named,
                                  ngx_uint_t &clusters) const noexcept
{
    fixed += fixed_;
    named += named_;
    clusters += fixed_ == 0 ? 1 : 0;
}

void RedisConnectionShare::set_limits(ngx_uint_t max, ngx_uint_t of_cluster, bool scarce) noexcept
{
    all().max = max;
    all().scarce = scarce;
    max_ = fixed_ == 0 ? of_cluster : max;
}

}  // namespace idempotency
