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
#include "http/exchange/claim_record.h"
#include "http/exchange/lease_renewer.h"
#include "http/exchange/response_buffer.h"
#include "http/exchange/retry_queue.h"
#include "nginx/log_limit.h"

namespace idempotency {

struct Context;

class UnsentMemory;

class Exchange {
public:
    // The caller gets one reference.  Null if there is no memory.
    static Exchange *create(Context &context, const KeyId &id);

    void add_reference() { references_++; }
    void drop_reference();

    // The request is about to end, and its outcome may not be recorded yet: what a later line of
    // the log says about the request.
    void remember_request(const ngx_http_request_t *r);

    // The request has ended: the context must not be used any more.
    void detach() { context_ = nullptr; }

    // `link` is in Maintenance::exchanges.
    static Exchange &from_link(ngx_queue_t *link)
    {
        return *(ngx_queue_data(link, Member, link))->exchange;
    }

    const KeyId &id() const { return call_.id; }

    // What the store knows the key by.
    KeyId stored_id() const;

    // Adds an event of this key to the last events of the store.
    void note(Event event, Cause cause = Cause::none);

    Token token() const { return token_; }
    Millis hold() const { return hold_; }
    const Fingerprint &fingerprint() const { return fingerprint_; }
    void set_fingerprint(const Fingerprint &fingerprint) { fingerprint_ = fingerprint; }

    // For the records of outcomes; empty until the key is claimed, and without a scope.
    std::string_view scope_tag() const
    {
        return {reinterpret_cast<const char *>(scope_tag_), scope_tag_size_};
    }
    bool compute_scope_tag(Digester &digester, const Scope &scope);

    // The reply to the claim.  `claimed` only if the lease has not expired meanwhile.
    const Reply &reply() const { return claim_reply_; }

    // Called when a call to the store has ended, unless the request has ended before.
    using ReplyHandler = void (*)(Context &context);

    // 1. Claims the key.  True if `reply()` is there already; otherwise `on_reply` is
    // called later.  If the key was claimed, its lease is renewed until the outcome is
    // recorded.  A claim that the store may have granted, but too late or without a reply,
    // is released by its id; this is retried until the store confirms it.
    bool claim(ReplyHandler on_reply);

    // The memory of `reply().value` is counted as a record that arrives from the store, until it is
    // freed or counted as a response that is being sent.
    void free_value();
    void end_loading();

    // As `claim`, but only looks the key up: `reply()` is never `claimed`, and `gone` where the key
    // is free.
    bool look_up(ReplyHandler on_reply);

    // 2. The response, while it is held.  Before `settle(Outcome::kept)` the caller has
    // written its record, which begins with `record_head(State::kept, ttl)`.
    ResponseBuffer &response() { return response_; }
    RecordHead record_head(State state, Millis lifetime) const
    {
        return outcome_head(facts(), state, lifetime);
    }

    // 3. Settles the claim as `settlement_of(outcome)`.  `ttl` is the lifetime of a response that is kept or recorded
    // as not kept.  True if the call has ended already; otherwise `on_reply` is called
    // later.  If the store is unavailable, the outcome goes into the retry queue.  A claim is
    // settled once: a second call is an error in this module, which is logged.
    bool settle(Outcome outcome, Millis ttl, ReplyHandler on_reply);

    // Whether the store has not replied to `settle` yet.  Then `on_reply` is called when it has.
    bool is_settling() const { return is_settling_; }
    void notify_settled(ReplyHandler on_reply) { on_reply_ = on_reply; }

    // What has become of the claim so far, for the log and the metrics.
    Outcome outcome() const { return is_untold_ ? Outcome::untold : outcome_; }

    // Whether the store has recorded the outcome.
    bool is_recorded() const { return call_.reply.verdict == Verdict::done; }

    // The worker exits and the request may still run: releases the claim if the request
    // was not sent, otherwise records that its outcome is unknown.
    void settle_at_exit();

private:
    struct OwnCall : Call {
        Exchange *exchange;
        std::uint64_t started_at;  // monotonic_micros()
    };

    // In Maintenance::exchanges.
    struct Member {
        ngx_queue_t link;
        Exchange *exchange;
    };

    enum class Phase { idle, claiming, claimed, settling, ended };

    explicit Exchange(ngx_pool_t *pool, Context &context);

    static char *allocate_value(Call &call, std::size_t size);
    bool allocate_value_buffer(std::size_t size);
    static void on_call_ended(Call &call);
    static void on_renewal_ended(Call &call);
    static void on_retry(ngx_event_t *event);
    static void renew(RenewedLease &lease);

    bool start_call();
    bool start_settling(Outcome outcome, Millis ttl, ReplyHandler on_reply);
    bool start_claim(ReplyHandler on_reply);
    void count(Count what, ngx_uint_t number = 1) { conf_->store->counters->add(what, number); }
    bool start(OwnCall &call);
    void count_call(OwnCall &call, bool at_once);
    void set_pending(bool is_pending);

    // With a `limit`: at most one line in a second has this level.
    void log(ngx_uint_t level, const char *event, LogLimit *limit = nullptr) const;

    Millis claim_lifetime() const { return conf_->lease + hold_; }
    ClaimFacts facts() const { return {*conf_, call_, token_, asked_at_, fingerprint_, hold_}; }

    void handle_claim_reply();
    void handle_renewal_end();
    void handle_renewal_reply();
    void claim_again();
    void lose_claim();

    void release_unconfirmed();
    void release_again();
    bool needs_claim() const;
    bool is_own_claim(std::string_view value) const;
    bool handle_settle_reply();
    void log_unknown_outcome() const;
    bool record_not_kept();
    void write_outcome(State state, Millis lifetime);
    void end();
    void retry_later();
    void wait_for_retry(ngx_msec_t delay);

    Member member_;
    ngx_pool_t *pool_;
    Context *context_;        // null once the request has ended
    ngx_str_t remembered_{};  // the request, for the log
    LocationConfig *conf_;
    ngx_uint_t references_ = 1;
    Phase phase_ = Phase::idle;
    ReplyHandler on_reply_ = nullptr;

    // the claim
    OwnCall call_{};     // claim, then settle or release
    OwnCall renewal_{};  // renew, claim again, or release at exit
    bool is_renewing_ = false;
    bool is_oversized_ = false;  // the value that was found is no record
    Token token_ = 0;
    Millis hold_ = 0;
    Millis asked_at_ = 0;  // monotonic_now() of the last claim
    Reply claim_reply_;
    Fingerprint fingerprint_{};
    unsigned char scope_tag_[kScopeTagSize];
    std::size_t scope_tag_size_ = 0;  // 0: there is no scope
    RenewedLease lease_{};
    char *value_buffer_ = nullptr;  // for the value of a key that is in use
    std::size_t value_buffer_size_ = 0;
    std::size_t loading_size_ = 0;  // what UnsentMemory counts of it
    std::size_t caller_ = 0;        // for UnsentMemory
    bool lacks_memory_ = false;     // the value that was found could not be read
    UnsentMemory *unsent_memory_;
    std::string_view small_record_piece_;
    unsigned char small_record_[kLargestClaim];  // of the claim, or an outcome without response
    std::string_view renewal_piece_;             // the claim once more, in the pool

    ResponseBuffer response_;

    // the outcome
    Outcome outcome_ = Outcome::none;
    bool is_untold_ = false;  // the store has not confirmed `outcome_`
    Settlement settlement_ = Settlement::release;
    bool is_settling_ = false;  // the store has not replied yet
    Millis settled_at_ = 0;     // monotonic_now()
    bool unconfirmed_ = false;  // a claim of this id may still arrive at the store
    bool repeated_ = false;     // its release was confirmed, and waits to be repeated
    Millis repeat_at_ = 0;      // monotonic_now()
    PendingOutcome pending_outcome_{};
    ngx_msec_t retry_delay_ = 0;  // 0: no retry yet
    bool is_pending_ = false;     // counted as an outcome that is not recorded yet
    bool is_at_exit_ = false;
    Millis exiting_since_ = 0;  // monotonic_now() when a retry saw that the worker quits
};

}  // namespace idempotency
