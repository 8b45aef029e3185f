// `observe`: the claim of a request that is only observed, in the store, and what would have
// been done.  The request itself never waits for it.
//
// It outlives its request where the store replies later: it has a pool of its own, counts its
// references, and its pointer to the request's context is cleared at the end of the request.

#pragma once

#include "nginx/nginx.h"

#include "http/exchange/claim_record.h"
#include "http/exchange/context.h"
#include "http/exchange/lease_renewer.h"
#include "http/observe/observed_response.h"

namespace idempotency {

// What would have become of the claim.
struct ObservedOutcome {
    Outcome outcome = Outcome::released_unsent;
    Millis lifetime = 0;
    bool unseen = false;      // the response was not seen to its end: `outcome` is `kept`
    bool comparable = false;  // it is the whole response of the application
};

class Observation {
public:
    // Belongs to the request: its end is the end of the response too.  Null if there is no memory.
    static Observation *create(Context &context, const KeyId &id);

    const KeyId &id() const { return call_.id; }
    Millis hold() const { return hold_; }
    ObservedResponse &response() { return response_; }

    using ReplyHandler = void (*)(Context &context);

    // False where too many calls wait for a slow store: don't call `claim`.
    static bool may_ask(const StoreSlot &store);

    // Asks the store.  `on_reply` is called when it has replied, unless the request has ended.
    // Without `may_claim` the key is only looked up: it is over the quota.
    void claim(const Fingerprint &fingerprint, bool may_claim, ReplyHandler on_reply);
    bool is_claimed() const { return phase_ == Phase::claimed; }

    // The response has ended.  Only the first call counts.
    void end(const ObservedOutcome &outcome);
    bool has_ended() const { return has_ended_; }

    // What would have become of the claim, once it is settled.
    Outcome outcome() const { return is_settled_ ? outcome_.outcome : Outcome::none; }

    // How far the response has been read.
    bool head_seen = false;
    bool is_stream = false;
    bool has_foreign_parts = false;  // the output of subrequests
    off_t content_length = -1;

private:
    struct OwnCall : Call {
        Observation *observation;
        std::uint64_t started_at;  // monotonic_micros()
    };

    enum class Phase { idle, claiming, claimed, replay, over };

    Observation(ngx_pool_t *pool, Context &context);

    static void on_request_end(void *data);
    static char *allocate_value(Call &call, std::size_t size);
    static void on_call_ended(Call &call);
    static void renew(RenewedLease &lease);

    void start(OwnCall &call);
    void handle_call_end(const OwnCall &call, bool at_once);
    void count(Count what) { conf_->store->counters->add(what); }
    void handle_claim_reply();
    void handle_value();
    void publish(Status status);
    void act();
    void settle();
    void release();
    void compare();
    ClaimFacts facts() const { return {*conf_, call_, token_, asked_at_, fingerprint_, hold_}; }
    void write_small(State state, Millis lifetime);
    void drop_reference();
    ngx_log_t *log() const;

    ngx_pool_t *pool_;
    Context *context_;  // null once the request has ended
    LocationConfig *conf_;
    ngx_uint_t references_ = 1;
    Phase phase_ = Phase::idle;
    ReplyHandler on_reply_ = nullptr;

    OwnCall call_{};     // claim, then settle or release
    OwnCall renewal_{};  // renew
    bool is_renewing_ = false;
    Token token_ = 0;
    Millis hold_;
    Millis asked_at_ = 0;  // monotonic_now()
    std::uint64_t asked_at_micros_ = 0;
    Fingerprint fingerprint_{};
    RenewedLease lease_{};
    Record kept_;  // in phase `replay`
    std::string_view small_piece_;
    unsigned char small_record_[kLargestClaim];

    bool has_ended_ = false;
    bool is_settled_ = false;
    ObservedOutcome outcome_;
    ObservedResponse response_;
};

}  // namespace idempotency
