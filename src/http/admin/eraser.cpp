#include "http/admin/eraser.h"

#include <new>

#include <openssl/rand.h>

#include "nginx/timer.h"

namespace idempotency {

namespace {

// Milliseconds between two steps.  Each step in Redis takes a connection, whose local port can't be
// used again for a minute: so many steps in a minute must leave most ports to others.
constexpr ngx_msec_t kPause = 5;

// Milliseconds before the walk begins again.
constexpr ngx_msec_t kRetryPause = 1000;

// How often the walk begins again.
constexpr std::uint64_t kMostRestarts = 30;

Millis unix_now()
{
    return static_cast<Millis>(ngx_time()) * 1000 + static_cast<Millis>(ngx_cached_time->msec);
}

}  // namespace

std::uint64_t Erasure::hash_of(const ngx_str_t &name)
{
    return static_cast<std::uint64_t>(ngx_murmur_hash2(name.data, name.len)) << 32
           | ngx_crc32_long(name.data, name.len);
}

ngx_queue_t Erasure::running = {&Erasure::running, &Erasure::running};

Erasure *Erasure::create(ngx_http_request_t *r, const AdminQuestion &question)
{
    ngx_pool_t *pool = ngx_create_pool(16 * 1024, ngx_cycle->log);
    void *memory = pool != nullptr ? ngx_palloc(pool, sizeof(Erasure)) : nullptr;
    auto *erasure = memory != nullptr ? new (memory) Erasure(pool, r, question) : nullptr;
    std::uint64_t id;

    if (erasure == nullptr || !erasure->copy_scope(question.scope)
        || RAND_bytes(reinterpret_cast<unsigned char *>(&id), sizeof(id)) != 1)
    {
        if (pool != nullptr) {
            ngx_destroy_pool(pool);
        }
        return nullptr;
    }

    erasure->progress.id = id >> 4 | 1;
    erasure->progress.store = hash_of(question.slot->name);
    erasure->progress.state = ErasureState::running;
    erasure->progress.worker = static_cast<std::uint32_t>(ngx_pid);
    erasure->progress.started = unix_now();
    erasure->progress.updated = erasure->progress.started;
    return erasure;
}

bool Erasure::copy_scope(const Scope &scope)
{
    auto *parts =
        static_cast<std::string_view *>(ngx_palloc(pool_, scope.count * sizeof(std::string_view)));

    for (std::size_t i = 0; parts != nullptr && i < scope.count; i++) {
        ngx_str_t text = to_ngx(scope.parts[i]);
        u_char *copy = ngx_pstrdup(pool_, &text);

        if (copy == nullptr && text.len > 0) {
            return false;
        }

        new (&parts[i])
            std::string_view(text.len > 0 ? reinterpret_cast<char *>(copy) : "", text.len);
    }

    scope_ = {scope.kind, parts, scope.count};
    return parts != nullptr;
}

void Erasure::start()
{
    member_.erasure = this;
    ngx_queue_insert_tail(&running, &member_.link);
    step_.erasure = this;
    step_.found = on_found;
    step_.ended = on_step_ended;

    for (Lookup &lookup : lookups_) {
        lookup.erasure = this;
        lookup.allocate_value = on_allocate;
        lookup.ended = on_lookup_ended;
    }

    prepare_timer(timer_, on_timer, this, ngx_cycle->log);
    pause(kPause);
}

void Erasure::pause(ngx_msec_t delay) { ngx_add_timer(&timer_, delay); }

void Erasure::on_timer(ngx_event_t *event)
{
    auto *self = static_cast<Erasure *>(event->data);

    if (ngx_exiting) {
        self->end(ErasureState::interrupted);
    } else {
        self->make_step();
    }
}

// The walk

void Erasure::make_step()
{
    id_count_ = 0;
    next_id_ = 0;

    is_stepping_ = true;

    if (slot_->store->walk(step_)) {
        handle_step();
    }
}

void Erasure::on_found(WalkStep &step, const KeyId &stored_id)
{
    Erasure &self = *static_cast<Step &>(step).erasure;

    if (self.id_count_ == self.id_capacity_) {
        std::size_t capacity = self.id_capacity_ > 0 ? 2 * self.id_capacity_ : 1024;
        auto *ids = static_cast<KeyId *>(ngx_palloc(self.pool_, capacity * sizeof(KeyId)));

        if (ids == nullptr) {
            self.failed_ = true;
            return;
        }

        if (self.id_count_ > 0) {
            ngx_memcpy(ids, self.ids_, self.id_count_ * sizeof(KeyId));
        }

        self.ids_ = ids;
        self.id_capacity_ = capacity;
    }

    self.ids_[self.id_count_++] = stored_id;
}

void Erasure::on_step_ended(WalkStep &step) { static_cast<Step &>(step).erasure->handle_step(); }

void Erasure::handle_step()
{
    is_stepping_ = false;

    if (has_ended_) {
        end(progress.state);
        return;
    }

    failed_ = failed_ || step_.failed;
    look_up_some();
}

// Begins as many lookups as may run at the same time.  When none is left, the walk goes on.
void Erasure::look_up_some()
{
    if (is_looking_) {
        return;
    }

    is_looking_ = true;

    for (ngx_uint_t i = 0; i < kLookups && next_id_ < id_count_ && !failed_ && !has_ended_;) {
        if (lookups_[i].is_busy || begin_lookup(lookups_[i])) {
            i++;
        }
    }

    is_looking_ = false;

    if (busy_ == 0 && !has_ended_) {
        go_on();
    }
}

void Erasure::go_on()
{
    progress.updated = unix_now();

    if (ngx_exiting) {
        end(ErasureState::interrupted);

    } else if (failed_ && progress.restarts == kMostRestarts) {
        end(ErasureState::failed);

    } else if (failed_) {
        failed_ = false;
        progress.restarts++;
        step_.part = 0;
        step_.position = 0;
        segment_->update(progress);
        pause(kRetryPause);

    } else if (step_.is_last) {
        end(ErasureState::done);

    } else {
        segment_->update(progress);
        pause(kPause);
    }
}

// The records

char *Erasure::on_allocate(Call &call, std::size_t size)
{
    auto &lookup = static_cast<Lookup &>(call);
    Erasure &self = *lookup.erasure;

    if (!self.slot_->is_embedded && size > self.slot_->largest_value) {
        self.progress.unreadable++;
        lookup.is_oversized = true;
        return nullptr;
    }

    if (size > lookup.capacity || lookup.buffer == nullptr) {
        ngx_free(lookup.buffer);
        lookup.buffer = static_cast<char *>(ngx_alloc(size > 0 ? size : 1, ngx_cycle->log));
        lookup.capacity = lookup.buffer != nullptr ? size : 0;
    }

    return lookup.buffer;
}

// True: the lookup waits for its reply.
bool Erasure::begin_lookup(Lookup &lookup)
{
    lookup.kind = Call::Kind::claim;
    lookup.by_operator = true;
    lookup.id_is_stored = true;
    lookup.is_oversized = false;
    lookup.value = {};
    lookup.id = ids_[next_id_++];
    lookup.stored_id = lookup.id;
    lookup.reply = Reply();

    do {
        lookup.is_busy = !slot_->store->start(lookup);

        if (lookup.is_busy) {
            busy_++;
            return true;
        }
    } while (handle_reply(lookup));

    return false;
}

void Erasure::on_lookup_ended(Call &call)
{
    auto &lookup = static_cast<Lookup &>(call);
    Erasure &self = *lookup.erasure;

    lookup.is_busy = false;
    self.busy_--;

    if (self.has_ended_) {
        self.end(self.progress.state);
        return;
    }

    while (self.handle_reply(lookup)) {
        lookup.is_busy = !self.slot_->store->start(lookup);

        if (lookup.is_busy) {
            self.busy_++;
            return;
        }
    }

    self.look_up_some();
}

// True: another call has to be started.
bool Erasure::handle_reply(Lookup &lookup)
{
    if (lookup.kind == Call::Kind::replace) {
        failed_ = failed_ || lookup.reply.verdict == Verdict::unavailable;

        if (lookup.reply.verdict == Verdict::done) {
            progress.forgotten++;
            log_forgotten(lookup);
        }

        // the value is sealed, maybe by a key that is not in use any more
        if (!lookup.id_is_stored && lookup.stored_id != lookup.id) {
            lookup.id = lookup.stored_id;
            lookup.id_is_stored = true;
            lookup.reply = Reply();
            return true;
        }
        return false;
    }

    switch (lookup.reply.verdict) {
    case Verdict::found:
        progress.examined++;
        return handle_record(lookup);

    case Verdict::unreadable:
        progress.examined++;
        progress.unreadable++;
        return false;

    case Verdict::gone:
        return false;

    default:
        // a value that is too large is counted already, and is no record
        failed_ = failed_ || !lookup.is_oversized;
        return false;
    }
}

bool Erasure::is_of_scope(const Record &record, const KeyId &id)
{
    unsigned char tag[kScopeTagSize];

    if (record.scope_tag.empty()) {
        return false;
    }

    // without memory it is not known
    if (!digester_->scope_tag(scope_, id, tag)) {
        failed_ = true;
        return false;
    }

    return record.scope_tag == std::string_view(reinterpret_cast<char *>(tag), sizeof(tag));
}

bool Erasure::handle_record(Lookup &lookup)
{
    static constexpr KeyId no_id{};
    KeyId id = lookup.reply.id != no_id ? lookup.reply.id : lookup.id;
    Record record;

    if (read_record(lookup.reply.value, id, record) != RecordFault::none) {
        progress.unreadable++;
        return false;
    }

    if (!is_of_scope(record, id)) {
        return false;
    }

    if (record.head.state != State::kept && record.head.state != State::not_kept) {
        progress.unknown++;
        return false;
    }

    std::string_view seen = seen_part(lookup.reply.value);

    ngx_memcpy(lookup.seen_bytes, seen.data(), seen.size());
    lookup.kind = Call::Kind::replace;
    lookup.by_operator = false;
    lookup.id_is_stored = false;
    lookup.id = id;
    lookup.seen = {lookup.seen_bytes, sizeof(lookup.seen_bytes)};
    lookup.reply = Reply();
    return true;
}

// The end

void Erasure::log_forgotten(const Lookup &lookup) const
{
    char hex[kHexLength];

    write_hex(lookup.id_is_stored ? lookup.id : slot_->store->stored_id(lookup.id), hex);
    ngx_log_error(NGX_LOG_INFO, ngx_cycle->log, 0,
                  "idempotency: store \"%V\": erasure %015xL: key %*s is forgotten", &slot_->name,
                  static_cast<uint64_t>(progress.id), kHexLength, hex);
}

void Erasure::log(const char *what) const
{
    ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                  "idempotency: store \"%V\": erasure %015xL of a scope %s: %uL records examined, "
                  "%uL keys forgotten, %uL unknown and %uL unreadable are left; asked by %*s",
                  &slot_->name, static_cast<uint64_t>(progress.id), what,
                  static_cast<uint64_t>(progress.examined),
                  static_cast<uint64_t>(progress.forgotten),
                  static_cast<uint64_t>(progress.unknown),
                  static_cast<uint64_t>(progress.unreadable), asker_.size, asker_.text);
}

void Erasure::end(ErasureState state)
{
    if (!has_ended_) {
        has_ended_ = true;
        progress.state = state;
        progress.updated = unix_now();
        segment_->update(progress);
        ngx_queue_remove(&member_.link);
        cancel_timer(timer_);
        log(state == ErasureState::done     ? "is done"
            : state == ErasureState::failed ? "has failed: the store was unavailable; ask again"
                                            : "was interrupted: its worker ends; ask again");
    }

    // a step or lookups are on their way: they end when the store is closed
    if (busy_ > 0 || is_stepping_) {
        return;
    }

    for (Lookup &lookup : lookups_) {
        ngx_free(lookup.buffer);
    }

    destroy();
}

}  // namespace idempotency
