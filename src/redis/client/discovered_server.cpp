#include "redis/client/discovered_server.h"

#include <cstdlib>
#include <cstring>

namespace idempotency {

namespace {

ngx_str_t host_of(const RedisEndpoint &endpoint, const RedisServer &source)
{
    ngx_str_t host;

    host.data = reinterpret_cast<u_char *>(const_cast<char *>(endpoint.host));
    host.len = std::strlen(endpoint.host);
    return host.len > 0 ? host : source.host;
}

bool same_host(const ngx_str_t &a, const ngx_str_t &b)
{
    return a.len == b.len && ngx_strncasecmp(a.data, b.data, a.len) == 0;
}

}  // namespace

struct RedisDiscoveredServer::AddressStorage {
    ngx_sockaddr_t sockaddr;
    u_char text[NGX_SOCKADDR_STRLEN];
};

RedisDiscoveredServer::~RedisDiscoveredServer()
{
    std::free(addresses_);
    std::free(storage_);
}

bool RedisDiscoveredServer::is(const RedisEndpoint &endpoint,
                               const RedisServer &source) const noexcept
{
    return endpoint.port == server_.port && same_host(host_of(endpoint, source), server_.host);
}

bool RedisDiscoveredServer::set(const RedisEndpoint &endpoint, const RedisServer &source,
                                const RedisOptions &options) noexcept
{
    ngx_str_t host = host_of(endpoint, source);

    if (host.len == 0 || host.len >= sizeof(host_)) {
        return false;
    }

    ngx_memcpy(host_, host.data, host.len);
    host_[host.len] = '\0';
    server_ = RedisServer();
    server_.host.data = host_;
    server_.host.len = host.len;
    server_.port = endpoint.port;
    write_name();

    if (ngx_inet_addr(host_, host.len) != INADDR_NONE
        || std::memchr(host_, ':', host.len) != nullptr) {
        return set_literal_address();
    }

    if (same_host(host, source.host)) {
        return copy_addresses(source);
    }

    for (ngx_uint_t i = 0; i < options.server_count; i++) {
        if (same_host(host, options.servers[i].host)) {
            return copy_addresses(options.servers[i]);
        }
    }

    return true;
}

void RedisDiscoveredServer::write_name() noexcept
{
    bool ipv6 = std::memchr(host_, ':', server_.host.len) != nullptr;
    ngx_uint_t port = server_.port;

    server_.name.data = name_;
    server_.name.len = static_cast<std::size_t>(
        ngx_snprintf(name_, sizeof(name_), ipv6 ? "[%V]:%ui" : "%V:%ui", &server_.host, port)
        - name_);
}

// The host is an IP address, not a name.
bool RedisDiscoveredServer::set_literal_address() noexcept
{
    sockaddr_in ipv4{};

    ipv4.sin_addr.s_addr = ngx_inet_addr(host_, server_.host.len);

    if (ipv4.sin_addr.s_addr != INADDR_NONE) {
        ipv4.sin_family = AF_INET;

        if (!allocate(1)) {
            return false;
        }

        set_address(0, reinterpret_cast<sockaddr *>(&ipv4), sizeof(ipv4));
        return true;
    }

#if (NGX_HAVE_INET6)
    sockaddr_in6 ipv6{};

    if (ngx_inet6_addr(host_, server_.host.len, ipv6.sin6_addr.s6_addr) == NGX_OK) {
        ipv6.sin6_family = AF_INET6;

        if (!allocate(1)) {
            return false;
        }

        set_address(0, reinterpret_cast<sockaddr *>(&ipv6), sizeof(ipv6));
    }
#endif

    return true;
}

bool RedisDiscoveredServer::copy_addresses(const RedisServer &known) noexcept
{
    if (known.address_count == 0) {
        return true;
    }

    if (!allocate(known.address_count)) {
        return false;
    }

    for (ngx_uint_t i = 0; i < known.address_count; i++) {
        set_address(i, known.addresses[i].sockaddr, known.addresses[i].socklen);
    }

    return true;
}

bool RedisDiscoveredServer::allocate(ngx_uint_t count) noexcept
{
    std::free(addresses_);
    std::free(storage_);
    addresses_ = static_cast<ngx_addr_t *>(std::calloc(count, sizeof(ngx_addr_t)));
    storage_ = static_cast<AddressStorage *>(std::calloc(count, sizeof(AddressStorage)));

    if (addresses_ == nullptr || storage_ == nullptr) {
        return false;
    }

    server_.addresses = addresses_;
    server_.address_count = count;
    return true;
}

// The port is that of this server, not that of `from`.
void RedisDiscoveredServer::set_address(ngx_uint_t index, const sockaddr *from,
                                        socklen_t length) noexcept
{
    ngx_addr_t &address = addresses_[index];
    AddressStorage &storage = storage_[index];

    ngx_memcpy(&storage.sockaddr, from, length);
    ngx_inet_set_port(&storage.sockaddr.sockaddr, server_.port);
    address.sockaddr = &storage.sockaddr.sockaddr;
    address.socklen = length;
    address.name.data = storage.text;
    address.name.len =
        ngx_sock_ntop(address.sockaddr, length, storage.text, NGX_SOCKADDR_STRLEN, 1);
}

}  // namespace idempotency
