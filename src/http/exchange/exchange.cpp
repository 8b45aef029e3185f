#include "http/exchange/exchange.h"

#include <algorithm>
#include <new>

#include "core/claim_ids.h"
#include "http/exchange/context.h"
#include "http/exchange/maintenance.h"
#include "http/exchange/request_end.h"
#include "nginx/clock.h"

namespace idempotency {

namespace {

// Bytes: the exchange itself and the record of a small response fit into this.
constexpr size_t kPoolSize = 2048;

// Bytes, if the length of the body is not known.
constexpr std::size_t kFirstPiece = 4096;
constexpr std::size_t kLargestPiece = 64 * 1024;

// Milliseconds.
constexpr ngx_msec_t kFirstRetryDelay = 100;
constexpr ngx_msec_t kLongestRetryDelay = 2000;

}  // namespace

Exchange::Exchange(ngx_pool_t *pool, Context &context)
    : pool_(pool), context_(&context), conf_(context.conf)
{
    call_.exchange = this;
    call_.allocate_value = allocate_value;
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
    ngx_destroy_pool(pool_);
}

// Names the key and the claim, so that an operator can find both.  The request's own log
// is used as long as the request lives.
void Exchange::log(ngx_uint_t level, const char *event) const
{
    char hex[kHexLength];
    std::size_t length = sizeof(hex);
    ngx_log_t *log = context_ != nullptr ? context_->request->connection->log : ngx_cycle->log;

    write_hex(conf_->store->store->stored_id(call_.id), hex);
    ngx_log_error(level, log, 0, "idempotency: key %*s in store \"%V\", token %uL: %s", length, hex,
                  &conf_->store->name, static_cast<uint64_t>(token_), event);
}

// Call::allocate_value.  A request that waits for its key claims it repeatedly and gets a
// value of the same size each time, so the buffer is used again.
char *Exchange::allocate_value(Call &call, std::size_t size)
{
    Exchange *exchange = static_cast<OwnCall &>(call).exchange;

    // another application has written the value to this Redis
    if (size > exchange->conf_->store->largest_value) {
        exchange->log(NGX_LOG_ERR, "its value is too large for a record of this module");
        exchange->is_oversized_ = true;
        return nullptr;
    }

    if (exchange->value_buffer_ == nullptr || size > exchange->value_buffer_size_) {
        exchange->value_buffer_ =
            static_cast<char *>(ngx_pnalloc(exchange->pool_, size > 0 ? size : 1));
        exchange->value_buffer_size_ = size;
    }

    return exchange->value_buffer_;
}

// Calls

static_assert(static_cast<unsigned>(Call::Kind::renew)
              == static_cast<unsigned>(Count::renewals) - static_cast<unsigned>(Count::claims));
static_assert(static_cast<unsigned>(Settlement::not_kept)
              == static_cast<unsigned>(Count::result_not_kept)
                     - static_cast<unsigned>(Count::result_kept));

void Exchange::count_call(const Call &call)
{
    count(static_cast<Count>(static_cast<unsigned>(Count::claims)
                             + static_cast<unsigned>(call.kind)));
}

void Exchange::count_failure(const Call &call)
{
    if (call.reply.verdict == Verdict::unavailable) {
        count(Count::unavailable);

    } else if (call.reply.verdict == Verdict::full) {
        count(Count::full);
    }
}

bool Exchange::start_call()
{
    count_call(call_);

    if (conf_->store->store->start(call_)) {
        count_failure(call_);
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

    exchange->count_failure(call);

    if (exchange->phase_ == Phase::claiming) {
        exchange->handle_claim_reply();
    } else {
        has_ended = exchange->handle_settle_reply();
    }

    if (has_ended && exchange->context_ != nullptr && on_reply != nullptr) {
        on_reply(*exchange->context_);
    }

    exchange->drop_reference();
}

// The claim

std::size_t Exchange::write_claim(unsigned char *out) const
{
    RecordHead head;

    head.state = State::running;
    head.tells_hold = conf_->unknown_hold != 0;
    head.claim = call_.claim;
    head.fingerprint = fingerprint_;
    head.lifetime = conf_->lease + hold_;
    head.hold = hold_;

    RecordWriter writer(out, head);

    writer.add_holder({static_cast<std::uint32_t>(ngx_pid),
                       view(const_cast<ngx_cycle_t *>(ngx_cycle)->hostname)});
    writer.finish(call_.id);
    return writer.size();
}

bool Exchange::claim(ReplyHandler on_reply)
{
    small_record_piece_ = {reinterpret_cast<char *>(small_record_), write_claim(small_record_)};
    on_reply_ = on_reply;
    phase_ = Phase::claiming;
    asked_at_ = monotonic_now();
    call_.kind = Call::Kind::claim;
    call_.token = 0;
    call_.value = {&small_record_piece_, 1};
    call_.lifetime = conf_->lease + hold_;

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
        claimed_at_ = asked_at_;

        if (is_late || context_ == nullptr) {
            if (is_late) {
                log(NGX_LOG_ERR, "the claim was granted after its lease had expired: it is "
                                 "released, and the request is not sent");
                claim_reply_ = Reply();
            }
            settle(Settlement::release, 0, nullptr);
            return;
        }

        lease_.length = conf_->lease;
        lease_.owner = this;
        lease_.renew = renew;
        conf_->store->maintenance->leases.add(lease_);
        return;
    }

    if (is_oversized_ && claim_reply_.verdict == Verdict::unavailable) {
        claim_reply_.verdict = Verdict::unreadable;
        return;
    }

    // `found` too: a near cache replies with its copy while the store itself is unavailable
    if (claim_reply_.sent) {
        release_unconfirmed();
    }
}

// The store may have granted the claim, or may do so when it reads it.
void Exchange::release_unconfirmed()
{
    unconfirmed_ = true;
    settle(Settlement::release, 0, nullptr);
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
    call.lifetime = exchange->conf_->lease + exchange->hold_;
    exchange->is_renewing_ = true;
    exchange->add_reference();
    exchange->count_call(call);

    if (exchange->conf_->store->store->start(call)) {
        on_renewal_ended(call);
    }
}

void Exchange::on_renewal_ended(Call &call)
{
    Exchange *exchange = static_cast<OwnCall &>(call).exchange;

    exchange->is_renewing_ = false;
    exchange->count_failure(call);
    exchange->handle_renewal_reply();
    exchange->drop_reference();
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
            log(NGX_LOG_WARN, "the store had lost the claim: the key is claimed again");
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
        if (is_wanted) {
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
        settle(Settlement::release, 0, nullptr);
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

    renewal_piece_ = {reinterpret_cast<char *>(record), write_claim(record)};
    renewal_.kind = Call::Kind::claim;
    renewal_.token = token_;
    renewal_.value = {&renewal_piece_, 1};
    is_renewing_ = true;
    add_reference();
    count_call(renewal_);

    if (conf_->store->store->start(renewal_)) {
        on_renewal_ended(renewal_);
    }
}

void Exchange::lose_claim()
{
    conf_->store->maintenance->leases.remove(lease_);
    count(Count::lost);
    log(NGX_LOG_ERR, "the claim was lost while its request ran: another request may be executed "
                     "with this key");
}

// The response

bool Exchange::add_body_piece()
{
    if (body_pieces_.elts == nullptr
        && ngx_array_init(&body_pieces_, pool_, 4, sizeof(std::string_view)) != NGX_OK)
    {
        return false;
    }

    std::size_t size = expected_body_size_ > body_size_
                           ? expected_body_size_ - body_size_
                           : ngx_min(ngx_max(body_size_, kFirstPiece), kLargestPiece);
    auto *memory = static_cast<char *>(ngx_pnalloc(pool_, size));
    auto *piece = static_cast<std::string_view *>(memory != nullptr ? ngx_array_push(&body_pieces_)
                                                                    : nullptr);

    if (piece == nullptr) {
        return false;
    }

    *piece = {memory, 0};
    free_in_last_piece_ = size;
    return true;
}

std::size_t Exchange::append_body(std::string_view bytes)
{
    std::size_t size_before = body_size_;

    while (!bytes.empty() && (free_in_last_piece_ > 0 || add_body_piece())) {
        auto *last = static_cast<std::string_view *>(body_pieces_.elts) + body_pieces_.nelts - 1;
        std::size_t n = ngx_min(free_in_last_piece_, bytes.size());

        ngx_memcpy(const_cast<char *>(last->data()) + last->size(), bytes.data(), n);
        *last = {last->data(), last->size() + n};
        free_in_last_piece_ -= n;
        body_size_ += n;
        bytes.remove_prefix(n);
    }

    return body_size_ - size_before;
}

unsigned char *Exchange::allocate_record_prefix(std::size_t size)
{
    record_prefix_ = static_cast<unsigned char *>(ngx_pnalloc(pool_, size));
    return record_prefix_;
}

// `since` is by the store's clock: the token has the time of the claim in microseconds.
// The clock of this host measures only the time since then.
RecordHead Exchange::record_head(State state, Millis lifetime) const
{
    RecordHead head;

    head.state = state;
    head.tells_hold = conf_->unknown_hold != 0;
    head.claim = call_.claim;
    head.token = token_;
    head.fingerprint = fingerprint_;
    head.since = token_ / 1000 + (monotonic_now() - claimed_at_);
    head.lifetime = lifetime;
    head.hold = hold_;
    return head;
}

// The outcome

void Exchange::write_outcome(State state, Millis lifetime)
{
    RecordWriter writer(small_record_, record_head(state, lifetime));

    writer.finish(call_.id);
    small_record_piece_ = {reinterpret_cast<char *>(small_record_), writer.size()};
    call_.value = {&small_record_piece_, 1};
    call_.lifetime = lifetime;
}

bool Exchange::settle(Settlement settlement, Millis ttl, ReplyHandler on_reply)
{
    on_reply_ = on_reply;
    phase_ = Phase::settling;
    settlement_ = settlement;
    settled_at_ = monotonic_now();
    call_.kind = Call::Kind::settle;

    switch (settlement) {
    case Settlement::release:
        call_.kind = Call::Kind::release;
        break;

    case Settlement::unknown:
        write_outcome(State::unknown, hold_);
        break;

    case Settlement::not_kept:
        write_outcome(State::not_kept, ttl);
        break;

    case Settlement::keep:
        if (ngx_array_init(&record_pieces_, pool_, body_pieces_.nelts + 1, sizeof(std::string_view))
            != NGX_OK)
        {
            settlement_ = Settlement::not_kept;
            write_outcome(State::not_kept, ttl);
            break;
        }

        *static_cast<std::string_view *>(ngx_array_push(&record_pieces_)) = {
            reinterpret_cast<char *>(record_prefix_), record_prefix_size_};
        std::copy_n(static_cast<std::string_view *>(body_pieces_.elts), body_pieces_.nelts,
                    static_cast<std::string_view *>(record_pieces_.elts) + 1);
        call_.value = {static_cast<std::string_view *>(record_pieces_.elts),
                       body_pieces_.nelts + 1};
        call_.lifetime = ttl;
        break;
    }

    return start_call() && handle_settle_reply();
}

// True if the call has an outcome, false if another call was started.
bool Exchange::handle_settle_reply()
{
    switch (call_.reply.verdict) {
    case Verdict::done:
        // the release of a claim that was never used is no outcome
        if (claim_reply_.verdict == Verdict::claimed && !repeated_) {
            count(static_cast<Count>(static_cast<unsigned>(Count::result_kept)
                                     + static_cast<unsigned>(settlement_)));
        }
        end();
        return true;

    case Verdict::lost:
        // a release may have been carried out by an earlier try; the claim may never have been
        // granted
        if (settlement_ != Settlement::release || (!unconfirmed_ && retry_delay_ == 0)) {
            count(Count::late);
            log(NGX_LOG_ERR, "the claim was lost before its request ended: the response is "
                             "delivered and not kept");
        }
        end();
        return true;

    case Verdict::refused:
        if (settlement_ == Settlement::keep) {
            log(NGX_LOG_ERR, "Redis does not accept a response of this size (proto-max-bulk-len): "
                             "it is recorded as not kept");
            return record_not_kept();
        }
        break;

    case Verdict::full:
        // a memory store reserves memory for this with each claim
        if (settlement_ == Settlement::keep) {
            log(NGX_LOG_ERR, "the store has no memory for the response: it is recorded as not "
                             "kept; enlarge the store");
            return record_not_kept();
        }
        break;

    default:
        break;
    }

    retry_later();
    return true;
}

bool Exchange::record_not_kept()
{
    settlement_ = Settlement::not_kept;
    write_outcome(State::not_kept, call_.lifetime);
    return start_call() && handle_settle_reply();
}

// The store has confirmed the outcome.  A claim may still be on its way to it over a
// connection that is broken on this side: so its release is repeated once.
void Exchange::end()
{
    conf_->store->maintenance->leases.remove(lease_);
    phase_ = Phase::ended;

    if (settlement_ == Settlement::release && unconfirmed_ && !repeated_ && !ngx_exiting
        && !is_at_exit_)
    {
        repeated_ = true;
        repeat_at_ = monotonic_now() + ngx_min(conf_->lease, kLongestRetryDelay);
        wait_for_retry(ngx_min(conf_->lease, kLongestRetryDelay));
    }
}

// As long as an unknown outcome would be held; the release of a claim that may have been
// granted, without an end; and for one lease after the worker was told to quit.
void Exchange::retry_later()
{
    Millis now = monotonic_now();
    Millis longest = ngx_max(hold_, conf_->lease);

    if (is_at_exit_) {
        end();
        return;
    }

    if (ngx_exiting && exiting_since_ == 0) {
        exiting_since_ = now;
    }

    bool is_unused = unconfirmed_ && settlement_ == Settlement::release;
    bool is_over = (!is_unused && now - settled_at_ >= longest)
                   || (exiting_since_ != 0 && now - exiting_since_ >= conf_->lease);

    if (retry_delay_ == 0) {
        retry_delay_ = kFirstRetryDelay;

        if (!is_unused) {
            log(NGX_LOG_ERR, "the store is unavailable: the outcome of the request is not recorded "
                             "yet; retrying");
        }

        if (settlement_ == Settlement::keep) {
            count(Count::unkept);
        }
    }

    if (is_over) {
        log(NGX_LOG_ERR, "the outcome of the request was not recorded: its key stays claimed until "
                         "lease and hold have ended");
        count(Count::unrecorded);
        end();
        return;
    }

    wait_for_retry(retry_delay_);

    // several retries within a lease: an outage shorter than the lease must not lose the
    // claim
    retry_delay_ = ngx_min(retry_delay_ * 2, ngx_min(kLongestRetryDelay, conf_->lease / 8 + 1));
}

void Exchange::wait_for_retry(ngx_msec_t delay)
{
    pending_outcome_.event.handler = on_retry;
    pending_outcome_.event.data = this;
    pending_outcome_.event.log = ngx_cycle->log;
    pending_outcome_.event.cancelable = repeated_;
    add_reference();
    conf_->store->maintenance->retries.add(pending_outcome_, delay);
}

void Exchange::on_retry(ngx_event_t *event)
{
    auto *exchange = static_cast<Exchange *>(event->data);
    Millis now = monotonic_now();

    exchange->conf_->store->maintenance->retries.remove(exchange->pending_outcome_);

    if (exchange->repeated_ && now < exchange->repeat_at_) {
        exchange->wait_for_retry(static_cast<ngx_msec_t>(exchange->repeat_at_ - now));
        exchange->drop_reference();
        return;
    }

    // an outcome that is recorded late holds the key no longer than one recorded at once
    if (exchange->settlement_ == Settlement::unknown) {
        Millis passed = now - exchange->settled_at_;

        exchange->write_outcome(State::unknown,
                                passed < exchange->hold_ ? exchange->hold_ - passed : 1);
    }

    exchange->count(Count::retries);

    if (exchange->start_call()) {
        exchange->handle_settle_reply();
    }

    exchange->drop_reference();
}

void Exchange::settle_at_exit()
{
    Phase phase = phase_;

    is_at_exit_ = true;

    if (phase == Phase::claimed) {
        Settlement settlement =
            context_ != nullptr ? decide_without_response(
                origin_at_end(*context_), static_cast<UnknownPolicy>(conf_->unknown))
                                : Settlement::release;

        // a claim in Redis becomes unknown by itself, when its lease expires
        if (settlement == Settlement::release || conf_->store->is_embedded) {
            settle(settlement, conf_->ttl, nullptr);
        }

    } else if (phase == Phase::claiming) {
        // the claim itself is still on its way: the release needs another call
        renewal_.exchange = this;
        renewal_.kind = Call::Kind::release;
        renewal_.id = call_.id;
        renewal_.claim = call_.claim;
        renewal_.ended = on_renewal_ended;
        is_renewing_ = true;
        add_reference();

        if (conf_->store->store->start(renewal_)) {
            references_--;
        }
    }
}

}  // namespace idempotency
