// A claim and what it is for: one request at the application, and its answer.
//
// An exchange outlives its request wherever the store is still at work for it.
// So it owns its memory, is counted, and knows the request's context only as
// long as there is one.

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
    // A reference is the caller's.  Null where there is no memory.
    static Exchange *create(Context &context, const KeyId &id);

    void retain() { references_++; }
    void drop();

    // The request is no more.
    void detach() { context_ = nullptr; }

    const KeyId &id() const { return call_.id; }
    Token token() const { return lease_.lease.token; }
    const Fingerprint &fingerprint() const { return fingerprint_; }
    void set_fingerprint(const Fingerprint &fingerprint) { fingerprint_ = fingerprint; }
    const Reply &reply() const { return call_.reply; }
    ngx_pool_t *pool() { return pool_; }

    // What the layer that made a call is told when the call has ended, if the request
    // still exists then.
    using EndHandler = void (*)(Context &context);

    // Asks the store for the key.  True if the reply is there; otherwise `on_end` is
    // called when it is.
    bool claim(EndHandler on_end);

    // Holds on to what `claim` got.
    void keep_lease();

    // Copies more of the answer's body; gives how much, which is less than all
    // where there is no memory.
    std::size_t hold(std::string_view bytes);
    std::size_t held() const { return held_; }
    void expect_length(std::size_t length) { expected_ = length; }
    const ngx_array_t &pieces() const { return pieces_; }

    // Ends the claim; a kept answer comes with its head and fields, and with
    // the room that `allocate_head` gave them.  True where the store has done so;
    // otherwise `on_end` is called.
    bool settle(Settlement settlement, Millis ttl, EndHandler on_end);

    // Where the record of the answer is written: head and fields.
    unsigned char *allocate_head(std::size_t size);
    RecordHead head(State state, Millis lifetime) const;
    void set_head_size(std::size_t size) { head_size_ = size; }

    // Whether the store has taken what it was told last.
    bool is_recorded() const { return call_.reply.verdict == Verdict::done; }

private:
    struct OwnCall : Call {
        Exchange *exchange;
    };

    explicit Exchange(ngx_pool_t *pool, Context &context);

    static char *allocate_value(Call &call, std::size_t size);
    void log_oversized_value(std::size_t size) const;
    static void on_ended(Call &call);
    static void on_retry(ngx_event_t *event);

    bool add_piece();
    bool start();
    void count_call();
    void count_end();
    void count(Count what) { conf_->store->counters->add(what); }
    void handle_claim_end();
    bool handle_settle_end();
    void write_outcome(State state, Millis lifetime);
    void retry_later();

    ngx_pool_t *pool_;
    Context *context_;
    LocationConfig *conf_;
    ngx_uint_t references_ = 1;
    EndHandler on_end_ = nullptr;

    OwnCall call_{};
    char *found_ = nullptr;  // room for the value of a key that is taken
    std::size_t found_size_ = 0;
    std::string_view claim_piece_;
    unsigned char claim_[kRecordHeadSize];
    Fingerprint fingerprint_{};
    RenewedLease lease_{};
    ngx_msec_t claimed_at_ = 0;

    Settlement settlement_ = Settlement::release;
    ngx_array_t pieces_{};  // of std::string_view: the body
    std::size_t held_ = 0;
    std::size_t expected_ = 0;
    std::size_t room_left_ = 0;  // in the last piece
    unsigned char *head_ = nullptr;
    std::size_t head_size_ = 0;
    ngx_array_t record_{};  // of std::string_view: the record

    PendingOutcome pending_{};
    ngx_msec_t retry_delay_ = 0;
    ngx_msec_t retry_until_ = 0;
};

}  // namespace idempotency
