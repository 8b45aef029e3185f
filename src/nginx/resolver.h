// nginx's ngx_resolver_t, and that of Angie.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// The name servers of a resolver are an array in nginx, and a list in Angie.  The one of the
// two functions that does not match is unused.
[[maybe_unused]] inline bool is_empty(const ngx_array_t &servers) { return servers.nelts == 0; }
[[maybe_unused]] inline bool is_empty(const void *servers) { return servers == nullptr; }

// False for the resolver that nginx creates where there is no `resolver`.
inline bool has_servers(const ngx_resolver_t *resolver)
{
    return resolver != nullptr && !is_empty(resolver->connections);
}

}  // namespace idempotency
