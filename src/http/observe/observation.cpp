#include "http/observe/observation.h"

#include <new>

#include "core/claim_ids.h"
#include "http/exchange/maintenance.h"
#include "http/exchange/meaning.h"
#include "http/observe/report.h"
#include "nginx/clock.h"

namespace idempotency {

namespace {

constexpr std::size_t kPoolSize = 2048;

// Of one store, in each worker.  Requests don't wait for the store, so nothing else bounds the
// memory that calls to a slow store take: each needs some 3 KB.
constexpr ngx_uint_t kMaxUnreplied = 4096;

Count count_of(const ObservedOutcome &outcome)
{
    if (outcome.unseen) {
        return Count::observed_result_unseen;
    }

    switch (outcome.outcome) {
    case Outcome::kept:
        return Count::observed_result_kept;
    case Outcome::not_kept_size:
        return Count::observed_result_not_kept_size;
    case Outcome::not_kept_stream:
        return Count::observed_result_not_kept_stream;
    case Outcome::not_kept_word:
        return Count::observed_result_not_kept_word;
    case Outcome::unknown:
        return Count::observed_result_unknown;
    default:
        return Count::observed_result_released;
    }
}

Status status_of(Action action)
{
    switch (action) {
    case Action::reused:
        return Status::reused;
    case Action::in_progress:
        return Status::in_progress;
    case Action::outcome_unknown:
        return Status::unknown;
    case Action::not_kept:
        return Status::not_kept;
    case Action::replay:
        break;
    }

    return Status::replayed;
}

}  // namespace

Observation::Observation(ngx_pool_t *pool, Context &context)
    : pool_(pool), context_(&context), conf_(context.conf),
      response_(pool, main_config(context.request)->digester->method())
{
    hold_ = hold_time(static_cast<UnknownPolicy>(conf_->unknown), conf_->unknown_hold, conf_->ttl);
    call_.observation = this;
    call_.claim = main_config(context.request)->claim_ids->next();
    call_.allocate_value = allocate_value;
    call_.ended = on_call_ended;
    renewal_.observation = this;
    renewal_.claim = call_.claim;
    renewal_.allocate_value = allocate_value;
    renewal_.ended = on_call_ended;
}

Observation *Observation::create(Context &context, const KeyId &id)
{
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(context.request->pool, 0);

    if (cleanup == nullptr) {
        return nullptr;
    }

    ngx_pool_t *pool = ngx_create_pool(kPoolSize, ngx_cycle->log);

    if (pool == nullptr) {
        return nullptr;
    }

    void *memory = ngx_palloc(pool, sizeof(Observation));

    if (memory == nullptr) {
        ngx_destroy_pool(pool);
        return nullptr;
    }

    auto *observation = new (memory) Observation(pool, context);

    observation->call_.id = id;
    observation->renewal_.id = id;
    cleanup->handler = on_request_end;
    cleanup->data = observation;
    return observation;
}

void Observation::drop_reference()
{
    if (--references_ > 0) {
        return;
    }

    ngx_pool_t *pool = pool_;

    conf_->store->maintenance->leases.remove(lease_);
    this->~Observation();
    ngx_destroy_pool(pool);
}

ngx_log_t *Observation::log() const
{
    return context_ != nullptr ? context_->request->connection->log : ngx_cycle->log;
}

// nginx's ngx_pool_cleanup_pt.  A response that has not ended by now was for a client that has
// closed the connection: nobody knows what the application would have answered.
void Observation::on_request_end(void *data)
{
    auto *observation = static_cast<Observation *>(data);
    ObservedOutcome outcome;

    if (observation->phase_ == Phase::idle) {
        observation->count(Count::observed_undecided);

    } else if (!observation->has_ended_) {
        outcome.unseen =
            observation->head_seen || origin_of(*observation->context_) != Origin::not_reached;
        outcome.outcome = outcome.unseen ? Outcome::kept : Outcome::released_unsent;
        outcome.lifetime = observation->conf_->ttl;
        observation->end(outcome);
    }

    observation->context_ = nullptr;
    observation->drop_reference();
}

// Calls

char *Observation::allocate_value(Call &call, std::size_t size)
{
    Observation *observation = static_cast<OwnCall &>(call).observation;
    const StoreSlot &slot = *observation->conf_->store;

    if (!slot.is_embedded && size > slot.largest_value) {
        return nullptr;
    }

    return static_cast<char *>(ngx_pnalloc(observation->pool_, ngx_max(size, 1u)));
}

void Observation::start(OwnCall &call)
{
    references_++;
    conf_->store->maintenance->unreplied_observations++;
    call.started_at = monotonic_micros();

    if (conf_->store->store->start(call)) {
        handle_call_end(call, true);
    }
}

void Observation::on_call_ended(Call &call)
{
    auto &own_call = static_cast<OwnCall &>(call);

    own_call.observation->handle_call_end(own_call, false);
}

void Observation::handle_call_end(const OwnCall &call, bool at_once)
{
    Verdict verdict = call.reply.verdict;
    StoreSlot &slot = *conf_->store;

    slot.maintenance->unreplied_observations--;

    if (slot.counters->call_ended(call, call.started_at, at_once)) {
        slot.counters->note(Event::refused, slot.store->stored_id(call.id), cause_of(call.reply));
    }

    if (&call == &renewal_) {
        is_renewing_ = false;

        if (verdict == Verdict::lost || verdict == Verdict::gone) {
            slot.maintenance->leases.remove(lease_);
        }

    } else if (phase_ == Phase::claiming) {
        handle_claim_reply();
    }

    drop_reference();
}

void Observation::renew(RenewedLease &lease)
{
    auto *observation = static_cast<Observation *>(lease.owner);

    if (observation->is_renewing_) {
        return;
    }

    observation->is_renewing_ = true;
    observation->renewal_.kind = Call::Kind::renew;
    observation->renewal_.lifetime = observation->conf_->lease + observation->hold_;
    observation->start(observation->renewal_);
}

// The claim

bool Observation::may_ask(const StoreSlot &store)
{
    return store.maintenance->unreplied_observations < kMaxUnreplied;
}

void Observation::claim(const Fingerprint &fingerprint, bool may_claim, ReplyHandler on_reply)
{
    fingerprint_ = fingerprint;
    on_reply_ = on_reply;
    asked_at_ = monotonic_now();
    asked_at_micros_ = monotonic_micros();
    phase_ = Phase::claiming;
    call_.kind = Call::Kind::claim;
    call_.lifetime = conf_->lease + hold_;

    if (may_claim) {
        small_piece_ = {reinterpret_cast<char *>(small_record_),
                        write_claim(facts(), small_record_)};
        call_.value = {&small_piece_, 1};
    }

    start(call_);
}

void Observation::handle_claim_reply()
{
    const Reply &reply = call_.reply;
    bool is_unconfirmed = reply.sent && !call_.only_looks_up();

    phase_ = Phase::over;

    switch (reply.verdict) {
    case Verdict::claimed:
        phase_ = Phase::claimed;
        token_ = reply.token;
        lease_.length = conf_->lease;
        lease_.owner = this;
        lease_.renew = renew;
        conf_->store->maintenance->leases.add(lease_);
        publish(Status::fresh);
        break;

    case Verdict::found:
        handle_value();
        break;

    case Verdict::gone:
        publish(Status::quota);
        break;

    default:
        publish(Status::store_error);
    }

    if (context_ != nullptr && on_reply_ != nullptr) {
        on_reply_(*context_);
    }

    if (is_unconfirmed && phase_ != Phase::claimed) {
        release();
    }

    act();
}

void Observation::handle_value()
{
    if (read_record(call_.reply.value, call_.id, kept_) != RecordFault::none) {
        publish(Status::store_error);
        return;
    }

    Status status = status_of(decide_by_record(kept_, call_.reply.remaining, fingerprint_));

    if (status == Status::replayed) {
        phase_ = Phase::replay;
    }

    publish(status);
}

void Observation::publish(Status status)
{
    const char *code = nullptr;

    observe_status(*conf_, status);

    if (status != Status::fresh && status != Status::replayed) {
        code = observe_refusal(*conf_, status, &call_.id, log());
    }

    if (context_ == nullptr) {
        return;
    }

    context_->problem_code = code;
    context_->store_time = monotonic_micros() - asked_at_micros_;
    context_->status = status;

    if (status == Status::replayed) {
        context_->since = kept_.head.since;
        context_->age = age_of(kept_.head, call_.reply.remaining);
    }
}

// The outcome

void Observation::end(const ObservedOutcome &outcome)
{
    if (has_ended_) {
        return;
    }

    has_ended_ = true;
    outcome_ = outcome;
    act();
}

// When both are there: the reply to the claim, and the end of the response.
void Observation::act()
{
    if (!has_ended_) {
        return;
    }

    if (phase_ == Phase::claimed) {
        settle();
    } else if (phase_ == Phase::replay) {
        compare();
    }
}

void Observation::write_small(State state, Millis lifetime)
{
    RecordWriter writer(small_record_, outcome_head(facts(), state, lifetime));

    writer.finish(call_.id);
    small_piece_ = {reinterpret_cast<char *>(small_record_), writer.size()};
    call_.value = {&small_piece_, 1};
}

void Observation::settle()
{
    phase_ = Phase::over;
    conf_->store->maintenance->leases.remove(lease_);

    if (outcome_.outcome == Outcome::kept) {
        RecordHead head = outcome_head(facts(), State::kept, outcome_.lifetime);
        bool is_written = outcome_.unseen || response_.has_failed()
                              ? response_.write_unseen(head, call_.id, call_.value)
                              : response_.write_record(head, call_.id, call_.value);

        if (!is_written) {
            outcome_.outcome = Outcome::not_kept_size;
        }
    }

    is_settled_ = true;
    count(count_of(outcome_));

    switch (settlement_of(outcome_.outcome)) {
    case Settlement::release:
        release();
        return;

    case Settlement::unknown:
        call_.lifetime = hold_;
        write_small(State::unknown, hold_);
        break;

    case Settlement::not_kept:
        call_.lifetime = outcome_.lifetime;
        write_small(State::not_kept, outcome_.lifetime);
        break;

    case Settlement::keep:
        call_.lifetime = outcome_.lifetime;
        break;
    }

    call_.kind = Call::Kind::settle;
    start(call_);
}

// Also of a claim that may be granted later.
void Observation::release()
{
    call_.kind = Call::Kind::release;
    call_.behind_claim = true;
    call_.value = {};
    start(call_);
}

void Observation::compare()
{
    Difference difference;

    phase_ = Phase::over;

    if (!outcome_.comparable || ObservedResponse::is_unseen(kept_)
        || !response_.compare(kept_, difference))
    {
        count(Count::observed_uncompared);
        return;
    }

    if (!difference.any()) {
        count(Count::observed_equal);
        return;
    }

    count(Count::observed_different);

    if (difference.status) {
        count(Count::observed_status_different);
    }

    if (difference.fields) {
        count(Count::observed_fields_different);
    }

    if (difference.body) {
        count(Count::observed_body_different);
    }

    log_difference(difference, kept_.status, response_.status(), *conf_, call_.id, log());
}

}  // namespace idempotency
