// How the module uses OpenSSL in a process that is nginx's.

#pragma once

#include <openssl/err.h>

namespace idempotency {

// OpenSSL keeps what went wrong until somebody asks.  Left there, it would be
// taken for an error of the next TLS connection that nginx reads from.
inline bool checked(bool done)
{
    if (!done) {
        ERR_clear_error();
    }

    return done;
}

}  // namespace idempotency
