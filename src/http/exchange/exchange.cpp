#include "http/exchange/exchange.h"

#include <algorithm>
#include <new>

#include "http/exchange/context.h"
#include "http/exchange/maintenance.h"

namespace idempotency {

namespace {

// Bytes: the exchange itself and the record of a small response fit into this.
constexpr size_t kPoolSize = 2048;

// Bytes, if the length of the body is not known.
constexpr std::size_t kFirstPiece = 4096;
constexpr std::size_t kLargestPiece = 64 * 1024;

constexpr ngx_msec_t kFirstRetryDelay = 100;
constexpr ngx_msec_t kLongestRetryDelay = 2000;

}  // namespace

Exchange::Exchange(ngx_pool_t *pool, Context &context)
    : pool_(pool), context_(&context), conf_(context.conf)
{
    call_.exchange = this;
    call_.room = allocate_value;
    call_.ended = on_call_ended;
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
    return exchange;
}

void Exchange::drop_reference()
{
    if (--references_ > 0) {
        return;
    }

    conf_->store->maintenance->leases.remove(lease_);
    ngx_destroy_pool(pool_);
}

void Exchange::log_oversized_value(std::size_t size) const
{
    char hex[kHexLength];
    std::size_t length = sizeof(hex);

    write_hex(conf_->store->store->stored_id(call_.id), hex);
    ngx_log_error(
        NGX_LOG_ERR, ngx_cycle->log, 0,
        "idempotency: the value of key %*s in store \"%V\" has %uz bytes: it is too large "
        "for a result of this module",
        length, hex, &conf_->store->name, size);
}

// Call::room.  A request that waits for its key claims it repeatedly and gets a value of
// the same size each time, so the buffer is used again.
char *Exchange::allocate_value(Call &call, std::size_t size)
{
    Exchange *exchange = static_cast<OwnCall &>(call).exchange;

    // another application has written the value to this Redis
    if (size > exchange->conf_->store->largest_value) {
        exchange->log_oversized_value(size);
        return nullptr;
    }

    if (exchange->value_buffer_ == nullptr || size > exchange->value_buffer_size_) {
        exchange->value_buffer_ =
            static_cast<char *>(ngx_pnalloc(exchange->pool_, size > 0 ? size : 1));
        exchange->value_buffer_size_ = size;
    }

    return exchange->value_buffer_;
}

bool Exchange::claim(ReplyHandler on_reply)
{
    RecordHead head;

    head.state = State::running;
    head.fingerprint = fingerprint_;
    head.lifetime = conf_->lease;

    RecordWriter writer(small_record_, head);
    writer.finish(call_.id);
    small_record_piece_ = {reinterpret_cast<char *>(small_record_), writer.size()};

    on_reply_ = on_reply;
    call_.kind = Call::Kind::claim;
    call_.token = 0;
    call_.value = {&small_record_piece_, 1};
    call_.lifetime = conf_->lease;
    return start_call();
}

static_assert(static_cast<unsigned>(Call::Kind::release)
              == static_cast<unsigned>(Count::releases) - static_cast<unsigned>(Count::claims));
static_assert(static_cast<unsigned>(Settlement::not_kept)
              == static_cast<unsigned>(Count::result_not_kept)
                     - static_cast<unsigned>(Count::result_kept));

void Exchange::count_call()
{
    count(static_cast<Count>(static_cast<unsigned>(Count::claims)
                             + static_cast<unsigned>(call_.kind)));
}

void Exchange::count_failure()
{
    if (call_.reply.verdict == Verdict::unavailable) {
        count(Count::unavailable);

    } else if (call_.reply.verdict == Verdict::full) {
        count(Count::full);
    }
}

bool Exchange::start_call()
{
    count_call();

    if (conf_->store->store->start(call_)) {
        count_failure();
        return true;
    }

    add_reference();
    return false;
}

void Exchange::on_call_ended(Call &call)
{
    Exchange *exchange = static_cast<OwnCall &>(call).exchange;

    exchange->count_failure();

    if (call.kind == Call::Kind::claim && exchange->lease_.lease.token == 0) {
        exchange->handle_claim_reply();

    } else if (exchange->handle_settle_reply() && exchange->context_ != nullptr) {
        exchange->on_reply_(*exchange->context_);
    }

    exchange->drop_reference();
}

void Exchange::handle_claim_reply()
{
    if (context_ != nullptr) {
        on_reply_(*context_);

    } else if (call_.reply.verdict == Verdict::claimed) {
        // the request has ended while the claim was on its way
        start_renewing();
        settle(Settlement::release, 0, nullptr);
    }
}

void Exchange::start_renewing()
{
    lease_.lease.id = call_.id;
    lease_.lease.token = call_.reply.token;
    lease_.lease.length = conf_->lease;
    claimed_at_ = ngx_current_msec;
    conf_->store->maintenance->leases.add(lease_);
}

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
    head.token = token();
    head.fingerprint = fingerprint_;
    head.since = token() / 1000 + (ngx_current_msec - claimed_at_);
    head.lifetime = lifetime;
    return head;
}

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
    settlement_ = settlement;
    call_.token = token();
    call_.kind = Call::Kind::settle;
    conf_->store->maintenance->leases.remove(lease_);
    retry_until_ = ngx_current_msec + conf_->lease;

    switch (settlement) {
    case Settlement::release:
        call_.kind = Call::Kind::release;
        break;

    case Settlement::unknown:
        write_outcome(State::unknown, conf_->lease);
        break;

    case Settlement::not_kept:
        write_outcome(State::not_kept, ttl);
        break;

    case Settlement::keep:
        if (ngx_array_init(&record_pieces_, pool_, body_pieces_.nelts + 1, sizeof(std::string_view))
            != NGX_OK)
        {
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
        count(static_cast<Count>(static_cast<unsigned>(Count::result_kept)
                                 + static_cast<unsigned>(settlement_)));
        break;

    case Verdict::lost:
        count(Count::late);
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "idempotency: a claim in store \"%V\" was lost before its request ended: "
                      "the response is delivered and not kept",
                      &conf_->store->name);
        break;

    case Verdict::full:
        // a memory store reserves memory for this with each claim
        if (settlement_ == Settlement::keep) {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                          "idempotency: store \"%V\" has no memory for a response of %uz bytes: "
                          "it is recorded as not kept",
                          &conf_->store->name, body_size_);
            settlement_ = Settlement::not_kept;
            write_outcome(State::not_kept, call_.lifetime);
            return start_call() && handle_settle_reply();
        }
        break;

    case Verdict::unavailable:
        retry_later();
        break;

    default:
        break;
    }

    return true;
}

void Exchange::retry_later()
{
    if (retry_delay_ == 0) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "idempotency: store \"%V\" is unavailable: the outcome of a request is not "
                      "recorded yet; retrying until its lease expires",
                      &conf_->store->name);
        retry_delay_ = kFirstRetryDelay;

        if (settlement_ == Settlement::keep) {
            count(Count::unkept);
        }
    }

    if (static_cast<ngx_msec_int_t>(retry_until_ - ngx_current_msec) <= 0) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "idempotency: the outcome of a request was not recorded in store \"%V\" "
                      "before its lease expired",
                      &conf_->store->name);
        count(Count::unrecorded);
        return;
    }

    pending_outcome_.event.handler = on_retry;
    pending_outcome_.event.data = this;
    pending_outcome_.event.log = ngx_cycle->log;
    add_reference();
    conf_->store->maintenance->retries.add(pending_outcome_, retry_delay_);

    // several retries within a lease: an outage shorter than the lease must not lose the
    // claim
    retry_delay_ = ngx_min(retry_delay_ * 2, ngx_min(kLongestRetryDelay, conf_->lease / 8 + 1));
}

void Exchange::on_retry(ngx_event_t *event)
{
    auto *exchange = static_cast<Exchange *>(event->data);
    auto time_left = static_cast<ngx_msec_int_t>(exchange->retry_until_ - ngx_current_msec);

    exchange->conf_->store->maintenance->retries.remove(exchange->pending_outcome_);

    // an outcome that is recorded late holds the key no longer than one recorded at once
    if (exchange->settlement_ == Settlement::unknown) {
        exchange->write_outcome(State::unknown, static_cast<Millis>(ngx_max(time_left, 1)));
    }

    exchange->count(Count::retries);

    if (exchange->start_call()) {
        exchange->handle_settle_reply();
    }

    exchange->drop_reference();
}

}  // namespace idempotency
