// The memory of responses that are being sent: `idempotency_max_unsent` bounds it.
//
// A client that does not read, such as an HTTP/2 stream with a window of 0, holds its response in
// memory until `send_timeout`.  Where such responses need more memory than the limit, some of them
// end as if `send_timeout` were over (core/unsent.h says which).  A retry gets a replay.

#pragma once

#include "core/siphash.h"
#include "core/unsent.h"
#include "http/exchange/context.h"

namespace idempotency {

// One in each worker.
class UnsentMemory {
public:
    explicit UnsentMemory(std::size_t limit);

    // In each worker, before the first request.  False: OpenSSL has no random numbers.
    bool open() { return make_sip_key(secret_); }

    // A record for the caller arrives from the store.  False, with a line in the log: there is no
    // memory for it now.
    bool start_loading(std::size_t size, std::size_t caller);
    void end_loading(std::size_t size, std::size_t caller) { responses_.end_loading(size, caller); }

    // Makes space for a replay of this size.  False, with a line in the log: there is
    // none now.
    bool make_space(const Context &context, std::size_t size);

    // Part of the response may have been sent.  If not all is sent, counts its memory until
    // `remove`.
    void add_unless_sent(Context &context, ngx_int_t rc, std::size_t size);

    void remove(Context &context);

    // The scope of the key, or the address.
    std::size_t caller_of(const Context &context) const;

private:
    UnsentResponses responses_;
    SipKey secret_{};
};

// The module's, in this worker.
inline UnsentMemory &unsent_memory(const Context &context)
{
    return *main_config(context.request)->unsent_memory;
}

}  // namespace idempotency
