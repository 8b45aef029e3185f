#include "redis/client/sentinel_list.h"

#include <algorithm>
#include <new>

namespace idempotency {

RedisSentinelList::RedisSentinelList(const RedisOptions &options) noexcept
{
    std::size_t most = 0;

    for (ngx_uint_t i = 0; i < options.server_count; i++) {
        most += std::max<std::size_t>(options.servers[i].address_count, 1);
    }

    first_ = new (std::nothrow) RedisServer[most];

    for (ngx_uint_t i = 0; first_ != nullptr && i < options.server_count; i++) {
        const RedisServer &server = options.servers[i];

        // the name of a single sentinel is resolved again at run time
        if (server.address_count < 2) {
            if (server.address_count == 0 || !has(server.addresses[0])) {
                first_[count_++] = server;
            }
            continue;
        }

        for (ngx_uint_t n = 0; n < server.address_count; n++) {
            if (!has(server.addresses[n])) {
                RedisServer &each = first_[count_++];

                each = server;
                each.addresses = &server.addresses[n];
                each.address_count = 1;
                each.is_one_of_several = true;
            }
        }
    }
}

RedisSentinelList::~RedisSentinelList() { delete[] first_; }

bool RedisSentinelList::has(const ngx_addr_t &address) const noexcept
{
    for (std::size_t i = 0; i < count_; i++) {
        const RedisServer &server = first_[i];

        if (server.address_count == 1
            && ngx_cmp_sockaddr(server.addresses[0].sockaddr, server.addresses[0].socklen,
                                address.sockaddr, address.socklen, 1)
                   == NGX_OK)
        {
            return true;
        }
    }

    return false;
}

}  // namespace idempotency
