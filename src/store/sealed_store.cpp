#include "store/sealed_store.h"

#include <cstring>
#include <new>

namespace idempotency {

namespace {

// More is given back to the system when a call has ended.
constexpr std::size_t kLargestKept = 16 * 1024;
constexpr std::size_t kMostIdle = 256;

// The worse one of two ends of what is one call to the caller.  What is
// unavailable is tried again, and is then known to be lost or not.
Verdict worse(Verdict a, Verdict b)
{
    for (Verdict worst : {Verdict::unavailable, Verdict::full, Verdict::lost}) {
        if (a == worst || b == worst) {
            return worst;
        }
    }

    return Verdict::done;
}

// A claim that was there no more is as free as one that was released.
Verdict better(Verdict a, Verdict b)
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

// A call, and the inner calls that it comes to: itself, one at a time.
class SealedStore::Job : public Call {
public:
    explicit Job(SealedStore &store) : store_(store)
    {
        room = allocate_value;
        ended = on_ended;
    }

    ~Job() { ::operator delete(room_); }

    // False where it can't be done: then it is not begun.
    bool begin(Call &outer);

    // True where the whole call has ended.
    bool run();

    void tell();
    void rest();

    Job *next = nullptr;  // of those that are idle

private:
    static char *allocate_value(Call &call, std::size_t size);
    static void on_ended(Call &call);

    bool prepare();
    bool seal();
    bool handle_reply();
    bool handle_claim_reply();
    bool handle_found();
    bool handle_outcome();
    bool go_on();
    bool end(Verdict verdict);
    bool take_back();
    void remember_claim(std::string_view record);
    void recall_claim();
    bool is_of_request(std::string_view record) const;

    SealedStore &store_;
    Call *outer_ = nullptr;
    KeyId ids_[kMostSealingKeys];
    std::size_t step_ = 0;  // which of them it is at
    unsigned taken_ = 0;    // bit N: the Nth is claimed
    bool taking_back_ = false;
    Token token_ = 0;
    Reply result_;

    // The claim of somebody else, while it is seen whether there is a result.
    unsigned char other_[kRecordHeadSize];
    bool has_other_ = false;
    Millis other_remaining_ = 0;

    unsigned char *room_ = nullptr;
    std::size_t room_size_ = 0;
    std::string_view sealed_;
};

bool SealedStore::Job::begin(Call &outer)
{
    outer_ = &outer;
    step_ = 0;
    taken_ = 0;
    taking_back_ = false;
    token_ = outer.token;
    result_ = Reply{};
    result_.verdict = outer.kind == Kind::release ? Verdict::lost : Verdict::done;
    has_other_ = false;

    for (std::size_t i = 0; i < store_.keys_.count(); i++) {
        if (!store_.keys_.identify(i, outer.id, ids_[i])) {
            return false;
        }
    }

    return true;
}

bool SealedStore::Job::run()
{
    for (;;) {
        if (prepare() && !store_.inner_.start(*this)) {
            return false;
        }
        if (!handle_reply()) {
            return true;
        }
    }
}

void SealedStore::Job::on_ended(Call &call)
{
    auto &job = static_cast<Job &>(call);

    if (job.handle_reply() && !job.run()) {
        return;
    }

    Call &outer = *job.outer_;

    job.tell();
    job.store_.put_back(&job);
    outer.ended(outer);
}

void SealedStore::Job::tell()
{
    if (has_other_ && result_.verdict == Verdict::found) {
        recall_claim();
    }

    outer_->reply = result_;
}

void SealedStore::Job::rest()
{
    if (room_size_ > kLargestKept) {
        ::operator delete(room_);
        room_ = nullptr;
        room_size_ = 0;
    }
}

// The sealed value is opened where it was read.
char *SealedStore::Job::allocate_value(Call &call, std::size_t size)
{
    Call &outer = *static_cast<Job &>(call).outer_;

    return outer.room(outer, size);
}

// What the next inner call is; where that fails the call has ended already.
bool SealedStore::Job::prepare()
{
    kind = taking_back_ ? Kind::release : outer_->kind;
    id = ids_[step_];
    token = token_;
    lifetime = outer_->lifetime;
    value = Pieces{};
    reply = Reply{};

    return kind == Kind::release || seal();
}

bool SealedStore::Job::seal()
{
    std::size_t size = outer_->value.size() + store_.keys_.extra();

    if (size > room_size_) {
        ::operator delete(room_);
        room_ = static_cast<unsigned char *>(::operator new(size, std::nothrow));
        room_size_ = room_ != nullptr ? size : 0;
    }

    if (room_ == nullptr || !store_.keys_.seal(id, outer_->value.first, outer_->value.count, room_))
    {
        return false;
    }

    sealed_ = {reinterpret_cast<char *>(room_), size};
    value = {&sealed_, 1};
    return true;
}

// The answer to an inner call; true where another one is to be made.
bool SealedStore::Job::handle_reply()
{
    if (taking_back_) {
        return take_back();
    }

    return outer_->kind == Kind::claim ? handle_claim_reply() : handle_outcome();
}

bool SealedStore::Job::handle_outcome()
{
    result_.verdict = outer_->kind == Kind::release ? better(result_.verdict, reply.verdict)
                                                    : worse(result_.verdict, reply.verdict);
    return ++step_ < store_.keys_.count();
}

bool SealedStore::Job::handle_claim_reply()
{
    switch (reply.verdict) {
    case Verdict::claimed:
        taken_ |= 1u << step_;
        token_ = reply.token;
        return go_on();
    case Verdict::found:
        return handle_found();
    default:
        return end(reply.verdict);
    }
}

// A claim may be one that is given back when it meets what comes next: that
// counts then, as it does for its holder.
bool SealedStore::Job::handle_found()
{
    auto *bytes = reinterpret_cast<unsigned char *>(const_cast<char *>(reply.value.data()));
    std::string_view record;
    SealFault fault = store_.keys_.open(id, bytes, reply.value.size(), record);

    if (fault != SealFault::none) {
        store_.events_.refused(id, describe(fault));
        return end(Verdict::unavailable);
    }

    if (state_of(record) != State::running) {
        has_other_ = false;
        result_.value = record;
        result_.remaining = reply.remaining;
        return end(Verdict::found);
    }

    if (store_.keys_.count() == 1) {
        result_.value = record;
        result_.remaining = reply.remaining;
        return end(Verdict::found);
    }

    remember_claim(record);
    return go_on();
}

bool SealedStore::Job::go_on()
{
    if (++step_ < store_.keys_.count()) {
        return true;
    }

    if (has_other_) {
        return end(Verdict::found);
    }

    result_.verdict = Verdict::claimed;
    result_.token = token_;
    return false;
}

// What the call comes to; first the claims that it has are given back.
bool SealedStore::Job::end(Verdict verdict)
{
    result_.verdict = verdict;
    taking_back_ = true;
    return take_back();
}

// Best effort: a claim that stays ends with its lease.
bool SealedStore::Job::take_back()
{
    for (step_ = 0; step_ < store_.keys_.count(); step_++) {
        if ((taken_ >> step_ & 1) != 0) {
            taken_ &= ~(1u << step_);
            return true;
        }
    }

    return false;
}

// Of several, one for the same request: another holder might be about to give
// its claim back, and the request is not to be told that its key is taken.
void SealedStore::Job::remember_claim(std::string_view record)
{
    if (has_other_ && !is_of_request(record)) {
        return;
    }

    std::memcpy(other_, record.data(), sizeof(other_));
    other_remaining_ = reply.remaining;
    has_other_ = true;
}

bool SealedStore::Job::is_of_request(std::string_view record) const
{
    return fingerprint_of(record) == fingerprint_of(*outer_->value.first);
}

void SealedStore::Job::recall_claim()
{
    char *place = outer_->room(*outer_, sizeof(other_));

    if (place == nullptr) {
        result_.verdict = Verdict::unavailable;
        return;
    }

    std::memcpy(place, other_, sizeof(other_));
    result_.value = {place, sizeof(other_)};
    result_.remaining = other_remaining_;
}

SealedStore::SealedStore(Store &inner, KeyRing &keys, Events &events)
    : inner_(inner), keys_(keys), events_(events), idle_(kMostIdle)
{}

SealedStore::~SealedStore() = default;

void SealedStore::put_back(Job *job)
{
    job->rest();
    idle_.give(job);
}

bool SealedStore::start(Call &call)
{
    Job *job = idle_.take(*this);

    if (job == nullptr) {
        call.reply = Reply{};
        return true;
    }

    if (!job->begin(call)) {
        call.reply = Reply{};

    } else if (job->run()) {
        job->tell();

    } else {
        return false;
    }

    put_back(job);
    return true;
}

void SealedStore::renew(const Lease *leases, std::size_t count)
{
    std::size_t filled = 0;

    for (std::size_t i = 0; i < count; i++) {
        for (std::size_t n = 0; n < keys_.count(); n++) {
            if (filled == kRenewedAtOnce) {
                inner_.renew(renewed_, filled);
                filled = 0;
            }

            renewed_[filled] = leases[i];
            filled += keys_.identify(n, leases[i].id, renewed_[filled].id) ? 1 : 0;
        }
    }

    if (filled > 0) {
        inner_.renew(renewed_, filled);
    }
}

KeyId SealedStore::stored_id(const KeyId &id) const
{
    KeyId stored_id{};

    if (!keys_.identify(keys_.first(), id, stored_id)) {
        stored_id = KeyId{};
    }

    return stored_id;
}

}  // namespace idempotency
