// A claim, the exchange with the upstream that it protects, and its response.
//
// The outcome may have to be recorded in the store after the request has ended, so an
// exchange can live longer than its request.  Therefore it has its own pool and a
// reference count, and its pointer to the request's context is cleared (`detach`).

#pragma once

#include "nginx/nginx.h"

#include "core/decision.h"
#include "core/record.h"
#include "core/store.h"
#include "http/config/config.h"
#include "http/exchange/lease_renewer.h"
#include "http/exchange/retry_queue.h"

namespace idempotency {

struct Context;

class Exchange {
public:
    // The caller gets one reference.  Null if there is no memory.
    static Exchange *create(Context &context, const KeyId &id);

    void add_reference() { references_++; }
    void drop_reference();

    // The request has ended: the context must not be used any more.
    void detach() { context_ = nullptr; }

    const KeyId &id() const { return call_.id; }
    Token token() const { return lease_.lease.token; }
    const Fingerprint &fingerprint() const { return fingerprint_; }
    void set_fingerprint(const Fingerprint &fingerprint) { fingerprint_ = fingerprint; }
    const Reply &reply() const { return call_.reply; }

    // Called when a call to the store has ended, unless the request has ended before.
    using ReplyHandler = void (*)(Context &context);

    // 1. Claims the key.  True if `reply()` is there already; otherwise `on_reply` is
    // called later.
    bool claim(ReplyHandler on_reply);

    // 2. The key was claimed: takes the token from `reply()`, and renews the lease until
    // `settle`.
    void start_renewing();

    // 3. Copies a part of the response body.  Returns the number of bytes copied, which
    // is less than `bytes.size()` if there is no memory.
    std::size_t append_body(std::string_view bytes);
    std::size_t body_size() const { return body_size_; }
    void expect_body_length(std::size_t length) { expected_body_size_ = length; }

    // Of std::string_view: the copied body.
    const ngx_array_t &body_pieces() const { return body_pieces_; }

    // 4. Before `settle(Settlement::keep)`: the caller writes the record up to the body
    // (head, status line and fields) into this memory, and sets how many bytes it wrote.
    // Null if there is no memory.
    unsigned char *allocate_record_prefix(std::size_t size);
    void set_record_prefix_size(std::size_t size) { record_prefix_size_ = size; }
    RecordHead record_head(State state, Millis lifetime) const;

    // 5. Settles the claim and stops the renewal.  `ttl` is the lifetime of a response
    // that is kept or recorded as not kept.  True if the call has ended already;
    // otherwise `on_reply` is called later.  If the store is unavailable, the outcome
    // goes into the retry queue.
    bool settle(Settlement settlement, Millis ttl, ReplyHandler on_reply);

    // Whether the store has recorded the outcome.
    bool is_recorded() const { return call_.reply.verdict == Verdict::done; }

private:
    struct OwnCall : Call {
        Exchange *exchange;
    };

    explicit Exchange(ngx_pool_t *pool, Context &context);

    static char *allocate_value(Call &call, std::size_t size);
    void log_oversized_value(std::size_t size) const;
    static void on_call_ended(Call &call);
    static void on_retry(ngx_event_t *event);

    bool add_body_piece();
    bool start_call();
    void count_call();
    void count_failure();
    void count(Count what) { conf_->store->counters->add(what); }
    void handle_claim_reply();
    bool handle_settle_reply();
    void write_outcome(State state, Millis lifetime);
    void retry_later();

    ngx_pool_t *pool_;
    Context *context_;  // null once the request has ended
    LocationConfig *conf_;
    ngx_uint_t references_ = 1;
    ReplyHandler on_reply_ = nullptr;

    OwnCall call_{};
    char *value_buffer_ = nullptr;  // for the value of a key that is in use
    std::size_t value_buffer_size_ = 0;
    std::string_view small_record_piece_;
    unsigned char small_record_[kRecordHeadSize];  // of the claim, or an outcome without response
    Fingerprint fingerprint_{};
    RenewedLease lease_{};
    ngx_msec_t claimed_at_ = 0;

    Settlement settlement_ = Settlement::release;
    ngx_array_t body_pieces_{};  // of std::string_view
    std::size_t body_size_ = 0;
    std::size_t expected_body_size_ = 0;  // 0: not known
    std::size_t free_in_last_piece_ = 0;  // bytes
    unsigned char *record_prefix_ = nullptr;
    std::size_t record_prefix_size_ = 0;
    ngx_array_t record_pieces_{};  // of std::string_view: the prefix, then the body

    PendingOutcome pending_outcome_{};
    ngx_msec_t retry_delay_ = 0;  // 0: no retry yet
    ngx_msec_t retry_until_ = 0;
};

}  // namespace idempotency
