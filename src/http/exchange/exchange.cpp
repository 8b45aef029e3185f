#include "http/exchange/exchange.h"

#include <algorithm>
#include <new>

#include "http/exchange/context.h"
#include "http/exchange/maintenance.h"

namespace idempotency {

namespace {

// One request's small parts and the record of a small answer fit into this.
constexpr size_t kPoolSize = 2048;

constexpr std::size_t kFirstPiece = 4096;
constexpr std::size_t kLargestPiece = 64 * 1024;

constexpr ngx_msec_t kFirstRetry = 100;
constexpr ngx_msec_t kLongestRetry = 2000;

}  // namespace

Exchange::Exchange(ngx_pool_t *pool, Context &context)
    : pool_(pool), context_(&context), conf_(context.conf)
{
    call_.exchange = this;
    call_.room = allocate_value;
    call_.ended = on_ended;
}

Exchange *Exchange::create(Context &context, const KeyId &id)
{
    ngx_pool_t *pool = ngx_create_pool(kPoolSize, ngx_cycle->log);

    if (pool == nullptr) {
        return nullptr;
    }

    void *place = ngx_palloc(pool, sizeof(Exchange));

    if (place == nullptr) {
        ngx_destroy_pool(pool);
        return nullptr;
    }

    auto *exchange = new (place) Exchange(pool, context);

    exchange->call_.id = id;
    return exchange;
}

void Exchange::drop()
{
    if (--references_ > 0) {
        return;
    }

    conf_->store->maintenance->leases.drop(lease_);
    ngx_destroy_pool(pool_);
}

void Exchange::log_oversized_value(std::size_t size) const
{
    char hex[kHexLength];
    std::size_t length = sizeof(hex);

    write_hex(conf_->store->store->stored_id(call_.id), hex);
    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "idempotency: store \"%V\" has %uz bytes under the key %*s: that is none of its "
                  "results",
                  &conf_->store->name, size, length, hex);
}

// A request that waits asks again and again, and finds a claim of the same size.
char *Exchange::allocate_value(Call &call, std::size_t size)
{
    Exchange *exchange = static_cast<OwnCall &>(call).exchange;

    // of somebody else, who writes to this Redis too
    if (size > exchange->conf_->store->largest_value) {
        exchange->log_oversized_value(size);
        return nullptr;
    }

    if (exchange->found_ == nullptr || size > exchange->found_size_) {
        exchange->found_ = static_cast<char *>(ngx_pnalloc(exchange->pool_, size > 0 ? size : 1));
        exchange->found_size_ = size;
    }

    return exchange->found_;
}

// The claim

bool Exchange::claim(EndHandler on_end)
{
    RecordHead head;

    head.state = State::running;
    head.fingerprint = fingerprint_;
    head.lifetime = conf_->lease;

    RecordWriter writer(claim_, head);
    writer.finish(call_.id);
    claim_piece_ = {reinterpret_cast<char *>(claim_), writer.size()};

    on_end_ = on_end;
    call_.kind = Call::Kind::claim;
    call_.token = 0;
    call_.value = {&claim_piece_, 1};
    call_.lifetime = conf_->lease;
    return start();
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

void Exchange::count_end()
{
    if (call_.reply.verdict == Verdict::unavailable) {
        count(Count::unavailable);

    } else if (call_.reply.verdict == Verdict::full) {
        count(Count::full);
    }
}

bool Exchange::start()
{
    count_call();

    if (conf_->store->store->start(call_)) {
        count_end();
        return true;
    }

    retain();
    return false;
}

void Exchange::on_ended(Call &call)
{
    Exchange *exchange = static_cast<OwnCall &>(call).exchange;

    exchange->count_end();

    if (call.kind == Call::Kind::claim && exchange->lease_.lease.token == 0) {
        exchange->handle_claim_end();

    } else if (exchange->handle_settle_end() && exchange->context_ != nullptr) {
        exchange->on_end_(*exchange->context_);
    }

    exchange->drop();
}

void Exchange::handle_claim_end()
{
    if (context_ != nullptr) {
        on_end_(*context_);

    } else if (call_.reply.verdict == Verdict::claimed) {
        // nobody is there any more to use it
        keep_lease();
        settle(Settlement::release, 0, nullptr);
    }
}

void Exchange::keep_lease()
{
    lease_.lease.id = call_.id;
    lease_.lease.token = call_.reply.token;
    lease_.lease.length = conf_->lease;
    claimed_at_ = ngx_current_msec;
    conf_->store->maintenance->leases.keep(lease_);
}

// The answer

bool Exchange::add_piece()
{
    if (pieces_.elts == nullptr
        && ngx_array_init(&pieces_, pool_, 4, sizeof(std::string_view)) != NGX_OK)
    {
        return false;
    }

    std::size_t size =
        expected_ > held_ ? expected_ - held_ : ngx_min(ngx_max(held_, kFirstPiece), kLargestPiece);
    auto *room = static_cast<char *>(ngx_pnalloc(pool_, size));
    auto *piece =
        static_cast<std::string_view *>(room != nullptr ? ngx_array_push(&pieces_) : nullptr);

    if (piece == nullptr) {
        return false;
    }

    *piece = {room, 0};
    room_left_ = size;
    return true;
}

std::size_t Exchange::hold(std::string_view bytes)
{
    std::size_t before = held_;

    while (!bytes.empty() && (room_left_ > 0 || add_piece())) {
        auto *last = static_cast<std::string_view *>(pieces_.elts) + pieces_.nelts - 1;
        std::size_t n = ngx_min(room_left_, bytes.size());

        ngx_memcpy(const_cast<char *>(last->data()) + last->size(), bytes.data(), n);
        *last = {last->data(), last->size() + n};
        room_left_ -= n;
        held_ += n;
        bytes.remove_prefix(n);
    }

    return held_ - before;
}

unsigned char *Exchange::allocate_head(std::size_t size)
{
    head_ = static_cast<unsigned char *>(ngx_pnalloc(pool_, size));
    return head_;
}

// By the store's clock, which made the token: that of this host counts only
// for what has passed since.
RecordHead Exchange::head(State state, Millis lifetime) const
{
    RecordHead head;

    head.state = state;
    head.token = token();
    head.fingerprint = fingerprint_;
    head.since = token() / 1000 + (ngx_current_msec - claimed_at_);
    head.lifetime = lifetime;
    return head;
}

// The end of the claim

void Exchange::write_outcome(State state, Millis lifetime)
{
    RecordWriter writer(claim_, head(state, lifetime));

    writer.finish(call_.id);
    claim_piece_ = {reinterpret_cast<char *>(claim_), writer.size()};
    call_.value = {&claim_piece_, 1};
    call_.lifetime = lifetime;
}

bool Exchange::settle(Settlement settlement, Millis ttl, EndHandler on_end)
{
    on_end_ = on_end;
    settlement_ = settlement;
    call_.token = token();
    call_.kind = Call::Kind::settle;
    conf_->store->maintenance->leases.drop(lease_);
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
        if (ngx_array_init(&record_, pool_, pieces_.nelts + 1, sizeof(std::string_view)) != NGX_OK)
        {
            write_outcome(State::not_kept, ttl);
            break;
        }

        *static_cast<std::string_view *>(ngx_array_push(&record_)) = {
            reinterpret_cast<char *>(head_), head_size_};
        std::copy_n(static_cast<std::string_view *>(pieces_.elts), pieces_.nelts,
                    static_cast<std::string_view *>(record_.elts) + 1);
        call_.value = {static_cast<std::string_view *>(record_.elts), pieces_.nelts + 1};
        call_.lifetime = ttl;
        break;
    }

    return start() && handle_settle_end();
}

// True where nothing more is to be awaited.
bool Exchange::handle_settle_end()
{
    switch (call_.reply.verdict) {
    case Verdict::done:
        count(static_cast<Count>(static_cast<unsigned>(Count::result_kept)
                                 + static_cast<unsigned>(settlement_)));
        break;

    case Verdict::lost:
        count(Count::late);
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "idempotency: a claim in store \"%V\" was lost before its request ended; "
                      "its answer is delivered and not kept",
                      &conf_->store->name);
        break;

    case Verdict::full:
        // each claim has room in reserve for this
        if (settlement_ == Settlement::keep) {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                          "idempotency: store \"%V\" has no room for an answer of %uz bytes: "
                          "it is recorded as not kept",
                          &conf_->store->name, held_);
            settlement_ = Settlement::not_kept;
            write_outcome(State::not_kept, call_.lifetime);
            return start() && handle_settle_end();
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
                      "idempotency: store \"%V\" can't be told the outcome of a request; "
                      "trying again until its lease ends",
                      &conf_->store->name);
        retry_delay_ = kFirstRetry;

        if (settlement_ == Settlement::keep) {
            count(Count::unkept);
        }
    }

    if (static_cast<ngx_msec_int_t>(retry_until_ - ngx_current_msec) <= 0) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "idempotency: the outcome of a request was not recorded in store \"%V\"",
                      &conf_->store->name);
        count(Count::unrecorded);
        return;
    }

    pending_.event.handler = on_retry;
    pending_.event.data = this;
    pending_.event.log = ngx_cycle->log;
    retain();
    conf_->store->maintenance->retries.add(pending_, retry_delay_);

    // an outage shorter than a lease is not to cost the claim
    retry_delay_ = ngx_min(retry_delay_ * 2, ngx_min(kLongestRetry, conf_->lease / 8 + 1));
}

void Exchange::on_retry(ngx_event_t *event)
{
    auto *exchange = static_cast<Exchange *>(event->data);
    auto left = static_cast<ngx_msec_int_t>(exchange->retry_until_ - ngx_current_msec);

    exchange->conf_->store->maintenance->retries.remove(exchange->pending_);

    // told late it holds the key no longer than told at once
    if (exchange->settlement_ == Settlement::unknown) {
        exchange->write_outcome(State::unknown, static_cast<Millis>(ngx_max(left, 1)));
    }

    exchange->count(Count::retries);

    if (exchange->start()) {
        exchange->handle_settle_end();
    }

    exchange->drop();
}

}  // namespace idempotency
