#include "store/sealed_store.h"

#include <cstring>
#include <new>

#include "store/buffer.h"

namespace idempotency {

namespace {

constexpr std::size_t kMaxUnused = 256;

// The verdict for the caller when a call has two verdicts under two stored ids.
//
// settle: `unavailable` comes first, because the caller tries again, and learns then what the
// other verdict says.  After `refused` and `full` the caller settles with a shorter value, which is
// `lost` where the claim is lost.
//
// release: a claim that was not there is not held either, so `done` counts more than `lost`.
//
// replace: an operator tries again after `lost`; an id without a value does not count.
//
// renew: after `gone` the caller claims again, which finds out what is unavailable.
Verdict worst_verdict(Call::Kind kind, Verdict a, Verdict b)
{
    using V = Verdict;
    static constexpr V settle[] = {V::unavailable, V::refused, V::full, V::lost, V::done};
    static constexpr V release[] = {V::unavailable, V::done, V::lost};
    static constexpr V replace[] = {V::unavailable, V::full, V::lost, V::done, V::gone};
    static constexpr V renew[] = {V::lost, V::gone, V::unavailable, V::done};

    auto worst = [&](const auto &order) {
        for (V verdict : order) {
            if (a == verdict || b == verdict) {
                return verdict;
            }
        }

        return V::unavailable;
    };

    return kind == Call::Kind::settle    ? worst(settle)
           : kind == Call::Kind::release ? worst(release)
           : kind == Call::Kind::replace ? worst(replace)
                                         : worst(renew);
}

std::string_view fingerprint_of(std::string_view record)
{
    return record.substr(kFingerprintOffset, sizeof(Fingerprint));
}

}  // namespace

// One call of a caller, and the inner calls that it needs.  This object is the inner call: it
// makes them one after the other.
class SealedStore::Operation : public Call {
public:
    explicit Operation(SealedStore &store) : store_(store)
    {
        allocate_value = on_allocate_value;
        ended = on_ended;
    }

    // Prepares the operation for a caller's call.  False: OpenSSL failed.
    bool begin(Call &caller);

    // Makes inner calls until one of them waits.  True: the caller's call has ended.
    bool run();

    // Copies the result to the caller's call.
    void reply_to_caller();

    // Frees large buffers, when the operation has ended.
    void trim_buffers();

    Operation *next = nullptr;  // FreeList's

private:
    static char *on_allocate_value(Call &call, std::size_t size);
    static void on_ended(Call &call);

    bool prepare_call();
    bool seal_value();

    // These return true if another inner call has to be made, false if the operation has
    // ended.
    bool handle_reply();
    bool handle_claim_reply();
    bool handle_found();
    bool handle_claim_found(std::string_view record);
    bool handle_other_reply();
    bool claim_next_key();
    bool finish(Verdict verdict);
    bool release_next_claim();

    bool save_claim(std::string_view record, bool is_own);
    void return_saved_claim();
    bool is_same_request(std::string_view record) const;

    SealedStore &store_;
    Call *caller_ = nullptr;
    KeyId stored_ids_[kMaxSealingKeys];
    std::size_t count_ = 0;    // of stored ids
    std::size_t current_ = 0;  // index of the stored id of the current inner call
    unsigned claimed_ = 0;     // bit N: this operation has claimed stored_ids_[N]
    bool releasing_ = false;
    bool sent_ = false;  // an inner call that ended as `unavailable` may have been carried out
    Cause cause_ = Cause::none;  // of the first inner call that failed
    Token token_ = 0;
    Reply result_;

    // A claim that was found under one stored id, while the other stored ids are searched for a
    // result.
    std::string_view saved_claim_;
    Millis saved_remaining_ = 0;
    bool saved_is_own_ = false;  // it is the caller's claim

    Buffer saved_claim_buffer_;
    Buffer sealed_buffer_;
    std::string_view sealed_;

    static_assert(kMaxSealingKeys <= 8 * sizeof(claimed_), "each stored id has a bit");
};

bool SealedStore::Operation::begin(Call &caller)
{
    caller_ = &caller;
    current_ = 0;
    claimed_ = 0;
    releasing_ = false;
    sent_ = false;
    cause_ = Cause::none;
    token_ = caller.token;
    result_ = Reply{};
    saved_claim_ = {};

    if (caller.id_is_stored) {
        stored_ids_[0] = caller.id;
        count_ = 1;
        return true;
    }

    count_ = store_.keys_.count();

    for (std::size_t i = 0; i < count_; i++) {
        if (!store_.keys_.derive_stored_id(i, caller.id, stored_ids_[i])) {
            return false;
        }
    }

    return true;
}

bool SealedStore::Operation::run()
{
    for (;;) {
        if (prepare_call() && !store_.inner_.start(*this)) {
            return false;
        }
        if (!handle_reply()) {
            return true;
        }
    }
}

void SealedStore::Operation::on_ended(Call &call)
{
    auto &operation = static_cast<Operation &>(call);

    if (operation.handle_reply() && !operation.run()) {
        return;
    }

    Call &caller = *operation.caller_;

    operation.reply_to_caller();
    operation.store_.recycle(&operation);
    caller.ended(caller);
}

void SealedStore::Operation::reply_to_caller()
{
    // a stored id may have the claim: the caller has to release it, whatever was found
    if (caller_->kind == Kind::claim && sent_) {
        result_.verdict = Verdict::unavailable;
    }

    if (result_.verdict == Verdict::found && !saved_claim_.empty()) {
        return_saved_claim();
    }

    if (result_.verdict == Verdict::unavailable) {
        result_ = Reply{};
        result_.sent = sent_;
    }

    if (result_.verdict == Verdict::unavailable || result_.verdict == Verdict::full) {
        result_.cause = cause_;
    }

    caller_->reply = result_;
}

void SealedStore::Operation::trim_buffers()
{
    saved_claim_buffer_.trim();
    sealed_buffer_.trim();
}

// The inner store writes the sealed value into the caller's memory; it is opened there.
char *SealedStore::Operation::on_allocate_value(Call &call, std::size_t size)
{
    Call &caller = *static_cast<Operation &>(call).caller_;

    return caller.allocate_value(caller, size);
}

// Fills in the next inner call.  False: it failed, and `reply` is `unavailable`.
bool SealedStore::Operation::prepare_call()
{
    kind = releasing_ ? Kind::release : caller_->kind;
    id = stored_ids_[current_];
    claim = caller_->claim;
    token = token_;
    lifetime = caller_->lifetime;
    send_only = caller_->send_only;
    behind_claim = caller_->behind_claim;
    by_operator = caller_->by_operator;
    fetch_limit = caller_->fetch_limit;
    seen = caller_->seen;
    most_remaining = caller_->most_remaining;
    value = Pieces{};
    reply = Reply{};

    return kind == Kind::release || kind == Kind::renew || caller_->value.count == 0
           || seal_value();
}

bool SealedStore::Operation::seal_value()
{
    std::size_t size = caller_->value.size() + store_.keys_.overhead();
    unsigned char *out = sealed_buffer_.reserve(size);

    if (out == nullptr
        || !store_.keys_.seal(id, caller_->id, caller_->value.first, caller_->value.count, out))
    {
        return false;
    }

    sealed_ = {reinterpret_cast<char *>(out), size};
    value = {&sealed_, 1};
    return true;
}

bool SealedStore::Operation::handle_reply()
{
    if (cause_ == Cause::none) {
        cause_ = reply.cause;
    }

    if (reply.verdict == Verdict::unavailable && (reply.sent || releasing_)) {
        sent_ = true;
    }

    if (releasing_) {
        return release_next_claim();
    }

    return caller_->kind == Kind::claim ? handle_claim_reply() : handle_other_reply();
}

bool SealedStore::Operation::handle_other_reply()
{
    result_.verdict = current_ == 0 ? reply.verdict
                                    : worst_verdict(caller_->kind, result_.verdict, reply.verdict);
    return ++current_ < count_;
}

bool SealedStore::Operation::handle_claim_reply()
{
    switch (reply.verdict) {
    case Verdict::claimed:
        claimed_ |= 1u << current_;
        token_ = reply.token;
        return claim_next_key();
    case Verdict::found:
        return handle_found();
    case Verdict::gone:
        return claim_next_key();
    default:
        result_.remaining = reply.remaining;
        return finish(reply.verdict);
    }
}

bool SealedStore::Operation::handle_found()
{
    auto *bytes = reinterpret_cast<unsigned char *>(const_cast<char *>(reply.value.data()));
    std::string_view record;
    SealFault fault = store_.keys_.open(id, bytes, reply.value.size(), record, result_.id);

    // an operator must not take it for damage
    if (fault == SealFault::failed && caller_->by_operator) {
        return finish(Verdict::unavailable);
    }

    if (fault != SealFault::none) {
        store_.events_.on_open_failed(id, describe(fault));
        result_.value = caller_->by_operator ? reply.value : std::string_view();
        result_.remaining = reply.remaining;
        return finish(Verdict::unreadable);
    }

    if (state_of(record) == State::running && count_ > 1) {
        return handle_claim_found(record);
    }

    saved_claim_ = {};
    result_.token = token_of(record);
    result_.value = record;
    result_.remaining = reply.remaining;
    return finish(Verdict::found);
}

// A claim that was found does not end the search.  Its holder may be about to release it,
// because it finds a result or a claim under one of the next stored ids: so this operation
// has to look there too, and reports what its holder reports.
//
// The caller's own claim is there if the caller claims again because a stored id was free.
bool SealedStore::Operation::handle_claim_found(std::string_view record)
{
    bool is_own = claim_of(record) == claim;

    if (is_own) {
        token_ = token_of(record);
    }

    return save_claim(record, is_own) ? claim_next_key() : finish(Verdict::unavailable);
}

bool SealedStore::Operation::claim_next_key()
{
    if (++current_ < count_) {
        return true;
    }

    if (!saved_claim_.empty() && !(saved_is_own_ && claimed_ != 0)) {
        return finish(Verdict::found);
    }

    result_.verdict = caller_->only_looks_up() ? Verdict::gone : Verdict::claimed;
    result_.token = token_;
    return false;
}

// Ends the caller's call with `verdict`, after what it has claimed has been released.
bool SealedStore::Operation::finish(Verdict verdict)
{
    result_.verdict = verdict;
    releasing_ = true;
    return release_next_claim();
}

bool SealedStore::Operation::release_next_claim()
{
    for (current_ = 0; current_ < count_; current_++) {
        if ((claimed_ >> current_ & 1) != 0) {
            claimed_ &= ~(1u << current_);
            return true;
        }
    }

    return false;
}

// Saves a claim that was found.  Of several, that of another request or host is preferred to the
// caller's, and of these one with the same fingerprint: another claim may be about to be released,
// and the caller must not be told that its key was used for another request.  False: there is no
// memory.
bool SealedStore::Operation::save_claim(std::string_view record, bool is_own)
{
    if (!saved_claim_.empty() && (is_own || (!saved_is_own_ && !is_same_request(record)))) {
        return true;
    }

    unsigned char *copy = saved_claim_buffer_.reserve(record.size());

    if (copy == nullptr) {
        return false;
    }

    std::memcpy(copy, record.data(), record.size());
    saved_claim_ = {reinterpret_cast<char *>(copy), record.size()};
    saved_remaining_ = reply.remaining;
    saved_is_own_ = is_own;
    return true;
}

bool SealedStore::Operation::is_same_request(std::string_view record) const
{
    return !caller_->only_looks_up()
           && fingerprint_of(record) == fingerprint_of(*caller_->value.first);
}

void SealedStore::Operation::return_saved_claim()
{
    char *place = caller_->allocate_value(*caller_, saved_claim_.size());

    if (place == nullptr) {
        result_.verdict = Verdict::unavailable;
        return;
    }

    std::memcpy(place, saved_claim_.data(), saved_claim_.size());
    result_.token = token_of(saved_claim_);
    result_.value = {place, saved_claim_.size()};
    result_.remaining = saved_remaining_;
}

SealedStore::SealedStore(Store &inner, KeyRing &keys, Events &events)
    : inner_(inner), keys_(keys), events_(events), unused_(kMaxUnused)
{}

SealedStore::~SealedStore() = default;

void SealedStore::recycle(Operation *operation)
{
    operation->trim_buffers();
    unused_.give(operation);
}

// The release of one stored id, which nobody waits for.
struct SealedStore::LastRelease : Call {
    static void end(Call &call) { delete &static_cast<LastRelease &>(call); }
};

// The worker exits: the releases of the other ids can't wait for the reply to the first one.
void SealedStore::send_other_releases(const Call &call)
{
    for (std::size_t i = 1; i < keys_.count(); i++) {
        auto *release = new (std::nothrow) LastRelease;

        if (release == nullptr) {
            return;
        }

        static_cast<Call &>(*release) = call;
        release->ended = LastRelease::end;

        if (!keys_.derive_stored_id(i, call.id, release->id) || inner_.start(*release)) {
            delete release;
        }
    }
}

bool SealedStore::start(Call &call)
{
    if (call.send_only && call.kind == Call::Kind::release) {
        send_other_releases(call);
    }

    Operation *operation = unused_.take(*this);

    if (operation == nullptr) {
        call.reply = Reply{};
        return true;
    }

    if (!operation->begin(call)) {
        call.reply = Reply{};

    } else if (operation->run()) {
        operation->reply_to_caller();

    } else {
        return false;
    }

    recycle(operation);
    return true;
}

KeyId SealedStore::stored_id(const KeyId &id) const
{
    KeyId stored_id{};

    if (!keys_.derive_stored_id(keys_.sealing_index(), id, stored_id)) {
        stored_id = KeyId{};
    }

    return stored_id;
}

}  // namespace idempotency
