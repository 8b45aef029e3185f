#include "store/sealed_store.h"

#include <cstring>
#include <new>

namespace idempotency {

namespace {

// A larger buffer is freed when its call has ended.
constexpr std::size_t kMaxUnusedBuffer = 16 * 1024;
constexpr std::size_t kMaxUnused = 256;

// The verdict for the caller when a settlement has two verdicts.  `unavailable` comes first:
// the caller tries again, and learns then whether its claim is lost.
Verdict combine_settle(Verdict a, Verdict b)
{
    for (Verdict worst : {Verdict::unavailable, Verdict::full, Verdict::lost}) {
        if (a == worst || b == worst) {
            return worst;
        }
    }

    return Verdict::done;
}

// The verdict for the caller when a release has two verdicts.  `lost` says that the claim was
// not there any more: it is not held then, as after `done`.
Verdict combine_release(Verdict a, Verdict b)
{
    if (a == Verdict::unavailable || b == Verdict::unavailable) {
        return Verdict::unavailable;
    }

    return a == Verdict::done ? a : b;
}

State state_of(std::string_view record) { return static_cast<State>(record[kStateOffset]); }

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
        room = allocate_value;
        ended = on_ended;
    }

    ~Operation() { ::operator delete(buffer_); }

    // Prepares the operation for a caller's call.  False: OpenSSL failed.
    bool begin(Call &caller);

    // Makes inner calls until one of them waits.  True: the caller's call has ended.
    bool run();

    // Copies the result to the caller's call.
    void reply_to_caller();

    // Frees a large buffer, when the operation has ended.
    void trim_buffer();

    Operation *next = nullptr;  // FreeList's

private:
    static char *allocate_value(Call &call, std::size_t size);
    static void on_ended(Call &call);

    bool prepare_call();
    bool seal_value();

    // These return true if another inner call has to be made, false if the operation has
    // ended.
    bool handle_reply();
    bool handle_claim_reply();
    bool handle_found();
    bool handle_settle_or_release_reply();
    bool claim_next_key();
    bool finish(Verdict verdict);
    bool release_next_claim();

    void save_other_claim(std::string_view record);
    void return_other_claim();
    bool is_same_request(std::string_view record) const;

    SealedStore &store_;
    Call *caller_ = nullptr;
    KeyId stored_ids_[kMaxSealingKeys];
    std::size_t current_ = 0;  // index of the stored id of the current inner call
    unsigned claimed_ = 0;     // bit N: this operation holds a claim of stored_ids_[N]
    bool releasing_ = false;
    Token token_ = 0;
    Reply result_;

    // The claim of another request or host, which was found under one stored id, while the
    // other stored ids are searched for a result.
    unsigned char other_claim_[kRecordHeadSize];
    bool has_other_claim_ = false;
    Millis other_remaining_ = 0;

    unsigned char *buffer_ = nullptr;  // of the sealed value
    std::size_t buffer_size_ = 0;
    std::string_view sealed_;

    static_assert(kMaxSealingKeys <= 8 * sizeof(claimed_), "each stored id has a bit");
};

bool SealedStore::Operation::begin(Call &caller)
{
    caller_ = &caller;
    current_ = 0;
    claimed_ = 0;
    releasing_ = false;
    token_ = caller.token;
    result_ = Reply{};
    result_.verdict = caller.kind == Kind::release ? Verdict::lost : Verdict::done;
    has_other_claim_ = false;

    for (std::size_t i = 0; i < store_.keys_.count(); i++) {
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
    if (has_other_claim_ && result_.verdict == Verdict::found) {
        return_other_claim();
    }

    caller_->reply = result_;
}

void SealedStore::Operation::trim_buffer()
{
    if (buffer_size_ > kMaxUnusedBuffer) {
        ::operator delete(buffer_);
        buffer_ = nullptr;
        buffer_size_ = 0;
    }
}

// The inner store writes the sealed value into the caller's memory; it is opened there.
char *SealedStore::Operation::allocate_value(Call &call, std::size_t size)
{
    Call &caller = *static_cast<Operation &>(call).caller_;

    return caller.room(caller, size);
}

// Fills in the next inner call.  False: it failed, and `reply` is `unavailable`.
bool SealedStore::Operation::prepare_call()
{
    kind = releasing_ ? Kind::release : caller_->kind;
    id = stored_ids_[current_];
    token = token_;
    lifetime = caller_->lifetime;
    value = Pieces{};
    reply = Reply{};

    return kind == Kind::release || seal_value();
}

bool SealedStore::Operation::seal_value()
{
    std::size_t size = caller_->value.size() + store_.keys_.overhead();

    if (size > buffer_size_) {
        ::operator delete(buffer_);
        buffer_ = static_cast<unsigned char *>(::operator new(size, std::nothrow));
        buffer_size_ = buffer_ != nullptr ? size : 0;
    }

    if (buffer_ == nullptr
        || !store_.keys_.seal(id, caller_->value.first, caller_->value.count, buffer_))
    {
        return false;
    }

    sealed_ = {reinterpret_cast<char *>(buffer_), size};
    value = {&sealed_, 1};
    return true;
}

bool SealedStore::Operation::handle_reply()
{
    if (releasing_) {
        return release_next_claim();
    }

    return caller_->kind == Kind::claim ? handle_claim_reply() : handle_settle_or_release_reply();
}

bool SealedStore::Operation::handle_settle_or_release_reply()
{
    result_.verdict = caller_->kind == Kind::release
                          ? combine_release(result_.verdict, reply.verdict)
                          : combine_settle(result_.verdict, reply.verdict);
    return ++current_ < store_.keys_.count();
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
    default:
        return finish(reply.verdict);
    }
}

// A claim that was found does not end the search.  Its holder may be about to release it,
// because it finds a result or a claim under one of the next stored ids: so this operation
// has to look there too, and reports what its holder reports.
bool SealedStore::Operation::handle_found()
{
    auto *bytes = reinterpret_cast<unsigned char *>(const_cast<char *>(reply.value.data()));
    std::string_view record;
    SealFault fault = store_.keys_.open(id, bytes, reply.value.size(), record);

    if (fault != SealFault::none) {
        store_.events_.on_open_failed(id, describe(fault));
        return finish(Verdict::unavailable);
    }

    if (state_of(record) != State::running) {
        has_other_claim_ = false;
        result_.value = record;
        result_.remaining = reply.remaining;
        return finish(Verdict::found);
    }

    if (store_.keys_.count() == 1) {
        result_.value = record;
        result_.remaining = reply.remaining;
        return finish(Verdict::found);
    }

    save_other_claim(record);
    return claim_next_key();
}

bool SealedStore::Operation::claim_next_key()
{
    if (++current_ < store_.keys_.count()) {
        return true;
    }

    if (has_other_claim_) {
        return finish(Verdict::found);
    }

    result_.verdict = Verdict::claimed;
    result_.token = token_;
    return false;
}

// Ends the caller's call with `verdict`, after its claims have been released.
bool SealedStore::Operation::finish(Verdict verdict)
{
    result_.verdict = verdict;
    releasing_ = true;
    return release_next_claim();
}

// Replies are ignored: a claim that could not be released expires with its lease.
bool SealedStore::Operation::release_next_claim()
{
    for (current_ = 0; current_ < store_.keys_.count(); current_++) {
        if ((claimed_ >> current_ & 1) != 0) {
            claimed_ &= ~(1u << current_);
            return true;
        }
    }

    return false;
}

// Saves a claim that was found.  Of several, one with the same fingerprint is preferred:
// another claim may be about to be released, and the caller must not be told that its key was
// used for another request.
void SealedStore::Operation::save_other_claim(std::string_view record)
{
    if (has_other_claim_ && !is_same_request(record)) {
        return;
    }

    std::memcpy(other_claim_, record.data(), sizeof(other_claim_));
    other_remaining_ = reply.remaining;
    has_other_claim_ = true;
}

bool SealedStore::Operation::is_same_request(std::string_view record) const
{
    return fingerprint_of(record) == fingerprint_of(*caller_->value.first);
}

void SealedStore::Operation::return_other_claim()
{
    char *place = caller_->room(*caller_, sizeof(other_claim_));

    if (place == nullptr) {
        result_.verdict = Verdict::unavailable;
        return;
    }

    std::memcpy(place, other_claim_, sizeof(other_claim_));
    result_.value = {place, sizeof(other_claim_)};
    result_.remaining = other_remaining_;
}

SealedStore::SealedStore(Store &inner, KeyRing &keys, Events &events)
    : inner_(inner), keys_(keys), events_(events), unused_(kMaxUnused)
{}

SealedStore::~SealedStore() = default;

void SealedStore::recycle(Operation *operation)
{
    operation->trim_buffer();
    unused_.give(operation);
}

bool SealedStore::start(Call &call)
{
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

void SealedStore::renew(const Lease *leases, std::size_t count)
{
    std::size_t filled = 0;

    for (std::size_t i = 0; i < count; i++) {
        for (std::size_t n = 0; n < keys_.count(); n++) {
            if (filled == kRenewBatch) {
                inner_.renew(batch_, filled);
                filled = 0;
            }

            batch_[filled] = leases[i];
            filled += keys_.derive_stored_id(n, leases[i].id, batch_[filled].id) ? 1 : 0;
        }
    }

    if (filled > 0) {
        inner_.renew(batch_, filled);
    }
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
