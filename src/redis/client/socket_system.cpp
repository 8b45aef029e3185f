// What only the system knows about a connection.

#include <algorithm>

#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

#include "redis/client/socket.h"

namespace idempotency {

void RedisSocket::reset() noexcept
{
    linger linger{1, 0};

    if (connection_ != nullptr) {
        (void) setsockopt(connection_->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    }

    close_connection();
}

std::size_t RedisSocket::unacknowledged() const noexcept
{
    int size = 0;

    return connection_ != nullptr && ioctl(connection_->fd, SIOCOUTQ, &size) == 0 && size > 0
               ? static_cast<std::size_t>(size)
               : 0;
}

// The system gives up a connection over which nothing is acknowledged.  Its own limit is some
// 15 minutes.
void RedisSocket::set_user_timeout() noexcept
{
    ngx_msec_t sum = options_.connect_timeout + 2 * (options_.timeout + options_.replica_wait);
    auto limit = static_cast<unsigned int>(std::min<ngx_msec_t>(sum, 900000));

    // fails for a Unix socket
    (void) setsockopt(connection_->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, sizeof(limit));
}

}  // namespace idempotency
