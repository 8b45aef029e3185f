#include "http/exchange/exchange.h"

#include <new>

#include "core/claim_ids.h"
#include "http/exchange/context.h"
#include "http/exchange/maintenance.h"
#include "http/exchange/unsent_memory.h"
#include "nginx/clock.h"

namespace idempotency {

namespace {

// Bytes: the exchange itself and the record of a small response fit into this.
constexpr size_t kPoolSize = 2048;

}  // namespace

Exchange::Exchange(ngx_pool_t *pool, Context &context)
    : pool_(pool), context_(&context), conf_(context.conf), unsent_memory_(&unsent_memory(context)),
      response_(pool)
{
    call_.exchange = this;
    call_.allocate_value = allocate_value;
    call_.fetch_limit = conf_->store->largest_value;
    call_.ended = on_call_ended;
    hold_ = hold_time(static_cast<UnknownPolicy>(conf_->unknown), conf_->unknown_hold, conf_->ttl);
    member_.exchange = this;
    ngx_queue_insert_tail(&conf_->store->maintenance->exchanges, &member_.link);
}

Exchange *Exchange::create(Context &context, const KeyId &id)
{
    ngx_pool_t *pool = ngx_create_pool(kPoolSize, ngx_cycle->log);

    if (pool == nullptr) {
        return nullptr;
    }

    void *memory = ngx_palloc(pool, sizeof(Exchange));

    if (memory == nullptr) {
        ngx_destroy_pool(pool);
        return nullptr;
    }

    auto *exchange = new (memory) Exchange(pool, context);

    exchange->call_.id = id;
    exchange->call_.claim = main_config(context.request)->claim_ids->next();
    return exchange;
}

void Exchange::drop_reference()
{
    if (--references_ > 0) {
        return;
    }

    conf_->store->maintenance->leases.remove(lease_);
    ngx_queue_remove(&member_.link);
    end_loading();
    ngx_destroy_pool(pool_);
}

KeyId Exchange::stored_id() const { return conf_->store->store->stored_id(call_.id); }

void Exchange::note(Event event, Cause cause)
{
    conf_->store->counters->note(event, stored_id(), cause);
}

// Call::allocate_value.  A request that waits for its key claims it repeatedly and gets a
// value of the same size each time, so the buffer is used again.
char *Exchange::allocate_value(Call &call, std::size_t size)
{
    Exchange *exchange = static_cast<OwnCall &>(call).exchange;

    // another application has written the value to this Redis
    if (!exchange->conf_->store->is_embedded && size > exchange->conf_->store->largest_value) {
        static LogLimit limit;

        exchange->log(NGX_LOG_ERR,
                      "its value is too large for a record of this module: the request is refused; "
                      "if another program uses this \"prefix\", change it; delete the key with "
                      "\"idempotency forget --force\"",
                      &limit);
        exchange->is_oversized_ = true;
        return nullptr;
    }

    if ((exchange->value_buffer_ == nullptr || size > exchange->value_buffer_size_)
        && !exchange->allocate_value_buffer(size))
    {
        exchange->lacks_memory_ = true;
        return nullptr;
    }

    return exchange->value_buffer_;
}

bool Exchange::allocate_value_buffer(std::size_t size)
{
    // a small value can't be freed alone
    constexpr std::size_t min_counted = 4096;

    free_value();

    if (size >= min_counted) {
        // nobody needs the value of a request that has ended
        if (context_ == nullptr) {
            return false;
        }

        caller_ = unsent_memory_->caller_of(*context_);

        if (!unsent_memory_->start_loading(size, caller_)) {
            return false;
        }

        loading_size_ = size;
    }

    value_buffer_ = static_cast<char *>(ngx_pnalloc(pool_, size > 0 ? size : 1));
    value_buffer_size_ = value_buffer_ != nullptr ? size : 0;
    return value_buffer_ != nullptr;
}

void Exchange::end_loading()
{
    unsent_memory_->end_loading(loading_size_, caller_);
    loading_size_ = 0;
}

void Exchange::free_value()
{
    end_loading();

    if (value_buffer_ != nullptr) {
        // a small value is a part of a block of the pool
        (void) ngx_pfree(pool_, value_buffer_);
        value_buffer_ = nullptr;
        value_buffer_size_ = 0;
    }

    claim_reply_.value = {};
}

// Calls

static_assert(static_cast<std::size_t>(Call::Kind::renew) == kCallKinds - 1);

// A call starts; `call_ended` follows.
bool Exchange::start(OwnCall &call)
{
    call.started_at = monotonic_micros();

    if (!conf_->store->store->start(call)) {
        return false;
    }

    count_call(call, true);
    return true;
}

// `at_once`: the call has ended within `start`.
void Exchange::count_call(OwnCall &call, bool at_once)
{
    if (lacks_memory_ && call.reply.verdict == Verdict::unavailable) {
        call.reply.cause = Cause::no_memory;
    }

    if (conf_->store->counters->call_ended(call, call.started_at, at_once)) {
        note(Event::refused, cause_of(call.reply));
    }
}

bool Exchange::start_call()
{
    if (start(call_)) {
        return true;
    }

    add_reference();
    return false;
}

void Exchange::on_call_ended(Call &call)
{
    Exchange *exchange = static_cast<OwnCall &>(call).exchange;
    ReplyHandler on_reply = exchange->on_reply_;
    bool has_ended = true;

    exchange->count_call(static_cast<OwnCall &>(call), false);

    if (exchange->phase_ == Phase::claiming) {
        exchange->handle_claim_reply();
    } else {
        has_ended = exchange->handle_settle_reply();
        exchange->is_settling_ = !has_ended;
    }

    if (has_ended && exchange->context_ != nullptr && on_reply != nullptr) {
        on_reply(*exchange->context_);
    }

    exchange->drop_reference();
}

// The claim

bool Exchange::compute_scope_tag(Digester &digester, const Scope &scope)
{
    if (scope.count > 0) {
        scope_tag_size_ = digester.scope_tag(scope, call_.id, scope_tag_) ? kScopeTagSize : 0;
    }

    return scope.count == 0 || scope_tag_size_ > 0;
}

bool Exchange::claim(ReplyHandler on_reply)
{
    small_record_piece_ = {reinterpret_cast<char *>(small_record_),
                           write_claim(facts(), small_record_)};
    call_.value = {&small_record_piece_, 1};
    return start_claim(on_reply);
}

bool Exchange::look_up(ReplyHandler on_reply)
{
    call_.value = {};
    return start_claim(on_reply);
}

bool Exchange::start_claim(ReplyHandler on_reply)
{
    on_reply_ = on_reply;
    phase_ = Phase::claiming;
    asked_at_ = monotonic_now();
    lacks_memory_ = false;
    call_.kind = Call::Kind::claim;
    call_.token = 0;
    call_.lifetime = claim_lifetime();

    if (!start_call()) {
        return false;
    }

    handle_claim_reply();
    return true;
}

void Exchange::handle_claim_reply()
{
    claim_reply_ = call_.reply;
    phase_ = Phase::idle;

    if (claim_reply_.verdict == Verdict::claimed) {
        bool is_late = monotonic_now() - asked_at_ >= conf_->lease;

        phase_ = Phase::claimed;
        token_ = claim_reply_.token;

        if (is_late || context_ == nullptr) {
            if (is_late) {
                note(Event::late_grant);
                static LogLimit limit;

                log(NGX_LOG_ERR,
                    "the claim was granted after its lease had expired: it is released, and the "
                    "request is not sent; see why the store is slow, or raise idempotency_lease",
                    &limit);
                claim_reply_ = Reply();
            }
            start_settling(is_late ? Outcome::none : Outcome::released_unsent, 0, nullptr);
            return;
        }

        lease_.length = conf_->lease;
        lease_.owner = this;
        lease_.renew = renew;
        conf_->store->maintenance->leases.add(lease_);
        return;
    }

    // the key is in use
    if ((is_oversized_ || lacks_memory_) && claim_reply_.verdict == Verdict::unavailable) {
        claim_reply_.verdict = Verdict::unreadable;
        return;
    }

    // `found` too: a near cache replies with its copy while the store itself is unavailable
    if (claim_reply_.sent && !call_.only_looks_up()) {
        release_unconfirmed();
    }
}

// The store may have granted the claim, or may do so when it reads it.
void Exchange::release_unconfirmed()
{
    unconfirmed_ = true;
    call_.behind_claim = true;
    start_settling(Outcome::none, 0, nullptr);
}

// Renewals

void Exchange::renew(RenewedLease &lease)
{
    Exchange *exchange = static_cast<Exchange *>(lease.owner);
    OwnCall &call = exchange->renewal_;

    if (exchange->is_renewing_) {
        return;
    }

    call.exchange = exchange;
    call.kind = Call::Kind::renew;
    call.id = exchange->call_.id;
    call.claim = exchange->call_.claim;
    call.allocate_value = allocate_value;
    call.ended = on_renewal_ended;
    call.lifetime = exchange->claim_lifetime();
    exchange->is_renewing_ = true;
    exchange->add_reference();

    if (exchange->start(call)) {
        exchange->handle_renewal_end();
    }
}

void Exchange::on_renewal_ended(Call &call)
{
    Exchange *exchange = static_cast<OwnCall &>(call).exchange;

    exchange->count_call(static_cast<OwnCall &>(call), false);
    exchange->handle_renewal_end();
}

void Exchange::handle_renewal_end()
{
    is_renewing_ = false;
    handle_renewal_reply();
    drop_reference();
}

void Exchange::handle_renewal_reply()
{
    // the outcome was recorded, or the claim released, while the renewal was on its way
    bool is_wanted = lease_.queued;

    switch (renewal_.reply.verdict) {
    case Verdict::done:
        break;

    case Verdict::claimed:
        if (is_wanted) {
            count(Count::reclaimed);
            note(Event::reclaimed);
            log(NGX_LOG_WARN,
                "the store had lost the claim: the key is claimed again; see why Redis "
                "loses data (maxmemory-policy, a failover, FLUSHALL)");
        } else {
            release_again();
        }
        break;

    case Verdict::gone:
        if (is_wanted && needs_claim()) {
            claim_again();
        }
        break;

    case Verdict::found:
        // an earlier attempt to claim the key again has arrived
        if (is_own_claim(renewal_.reply.value)) {
            break;
        }
        [[fallthrough]];

    case Verdict::lost:
        // while an outcome is on its way to the store, the key may have it already: the reply
        // to that call says whether the claim was lost
        if (is_wanted && phase_ == Phase::claimed) {
            lose_claim();
        }
        break;

    case Verdict::unavailable:
        // the claim may arrive after a release
        if (renewal_.kind == Call::Kind::claim && renewal_.reply.sent) {
            unconfirmed_ = true;

            if (!needs_claim()) {
                release_again();
            }
        }
        break;

    default:
        break;
    }
}

bool Exchange::is_own_claim(std::string_view value) const
{
    return value.size() >= kRecordHeadSize && state_of(value) == State::running
           && claim_of(value) == call_.claim;
}

// Its request runs, or an outcome other than `release` is not recorded yet.
bool Exchange::needs_claim() const
{
    return phase_ == Phase::claimed
           || (phase_ == Phase::settling && settlement_ != Settlement::release);
}

// The key was claimed again for an exchange that has ended.
void Exchange::release_again()
{
    unconfirmed_ = true;

    if (phase_ == Phase::ended && !repeated_) {
        start_settling(Outcome::none, 0, nullptr);
    }
}

// With its id and its token: for the application it is the same claim.
void Exchange::claim_again()
{
    auto *record = static_cast<unsigned char *>(renewal_piece_.empty()
                                                    ? ngx_pnalloc(pool_, kLargestClaim)
                                                    : const_cast<char *>(renewal_piece_.data()));

    if (record == nullptr) {
        return;
    }

    renewal_piece_ = {reinterpret_cast<char *>(record), write_claim(facts(), record)};
    renewal_.kind = Call::Kind::claim;
    renewal_.token = token_;
    renewal_.value = {&renewal_piece_, 1};
    is_renewing_ = true;
    add_reference();

    if (start(renewal_)) {
        handle_renewal_end();
    }
}

void Exchange::lose_claim()
{
    conf_->store->maintenance->leases.remove(lease_);
    count(Count::lost);
    note(Event::lost);
    log(NGX_LOG_ERR, "the claim was lost while its request ran: another request may be executed "
                     "with this key; find out in the application whether both were executed");
}

}  // namespace idempotency
