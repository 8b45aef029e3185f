// The error queue of OpenSSL, which the module shares with nginx.

#pragma once

#include <openssl/err.h>

namespace idempotency {

// Returns `success`, and clears the error queue if it is false.  An error that stays in the queue
// would be taken for an error of the next TLS connection that nginx reads from.
inline bool checked(bool success)
{
    if (!success) {
        ERR_clear_error();
    }

    return success;
}

}  // namespace idempotency
