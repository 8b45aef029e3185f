#include "store/near_store.h"

namespace idempotency {

namespace {

constexpr Millis kAnyAge = ~Millis(0);

bool is_final(State state) { return state == State::kept || state == State::not_kept; }

// A value from the store: another host or an operator may have written it.  It is checked as
// a whole before other requests get it from the cache.
bool is_final_record(std::string_view value, const KeyId &id)
{
    Record record;

    return read_record(value, id, record) == RecordFault::none && is_final(record.head.state);
}

// A value that this host has made: its first piece begins with a record's head.
bool is_final_record(const Pieces &value)
{
    return value.count > 0 && value.first[0].size() >= kRecordHeadSize
           && is_final(state_of(value.first[0]));
}

}  // namespace

// The call that is made to the store for a caller's call.
struct NearStore::StoreCall : Call {
    NearStore *owner;
    Call *caller;
    Millis sent_at;   // the reply describes the store at this time or later
    StoreCall *next;  // FreeList's
};

NearStore::NearStore(Store &store, SharedMemory &memory) : store_(store), memory_(memory) {}

NearStore::~NearStore() = default;

bool NearStore::start(Call &call)
{
    switch (call.kind) {
    case Call::Kind::claim:
        if (call.by_operator) {
            return call_store(call);
        }
        return reply_from_copy(call, kNearFresh, false) || call_store(call);
    case Call::Kind::settle:
        return call_store(call);
    case Call::Kind::replace:
        // also if the reply is lost; and once more afterwards, as other requests may copy the
        // value meanwhile
        remove_copy(call.id);
        return call_store(call);
    case Call::Kind::release:
    case Call::Kind::renew:
        break;
    }

    return store_.start(call);
}

bool NearStore::call_store(Call &call)
{
    StoreCall *store_call = unused_.take();

    // without memory the store is called directly, and its reply changes no copy
    if (store_call == nullptr) {
        return store_.start(call);
    }

    static_cast<Call &>(*store_call) = call;
    store_call->owner = this;
    store_call->caller = &call;
    store_call->sent_at = memory_.now();
    store_call->allocate_value = allocate_value;
    store_call->ended = on_ended;

    if (!store_.start(*store_call)) {
        return false;
    }

    finish(*store_call);
    return true;
}

char *NearStore::allocate_value(Call &call, std::size_t size)
{
    Call &caller = *static_cast<StoreCall &>(call).caller;

    return caller.allocate_value(caller, size);
}

void NearStore::on_ended(Call &call)
{
    auto &store_call = static_cast<StoreCall &>(call);
    Call &caller = store_call.owner->finish(store_call);

    caller.ended(caller);
}

Call &NearStore::finish(StoreCall &store_call)
{
    Call &caller = *store_call.caller;

    caller.reply = store_call.reply;

    if (caller.by_operator) {
        handle_lookup_reply(caller);
    } else if (caller.kind == Call::Kind::claim) {
        handle_claim_reply(caller, store_call.sent_at);
    } else {
        handle_settle_reply(caller, store_call.sent_at);
    }

    unused_.give(&store_call);
    return caller;
}

// The operator is told that the key is free.
void NearStore::handle_lookup_reply(const Call &call)
{
    if (call.reply.verdict == Verdict::gone) {
        remove_copy(call.id);
    }
}

void NearStore::handle_claim_reply(Call &call, Millis sent_at)
{
    switch (call.reply.verdict) {
    case Verdict::found:
        if (is_final_record(call.reply.value, call.id)) {
            put_copy(call.id, {&call.reply.value, 1}, call.reply.remaining, sent_at);
        } else {
            remove_copy(call.id);
        }
        break;

    case Verdict::claimed:
    case Verdict::gone:
        remove_copy(call.id);
        break;

    case Verdict::unavailable:
        reply_from_copy(call, kAnyAge, call.reply.sent);
        break;

    default:
        break;
    }
}

void NearStore::handle_settle_reply(const Call &call, Millis sent_at)
{
    if (call.reply.verdict != Verdict::done) {
        return;
    }

    if (is_final_record(call.value)) {
        put_copy(call.id, call.value, call.lifetime, sent_at);
    } else {
        remove_copy(call.id);
    }
}

// Ends a claim by a copy that was confirmed less than `max_age` ago.  False: there is none.
// `sent`: the claim may have been granted by the store.
bool NearStore::reply_from_copy(Call &call, Millis max_age, bool sent)
{
    Locked locked(memory_);
    Millis now = memory_.now();
    CacheZone::Copy copy = locked->look_up(call.id, now);

    if (!copy.found || (now > copy.confirmed && now - copy.confirmed >= max_age)) {
        return false;
    }

    char *buffer = call.allocate_value(call, copy.size);

    Cause cause = call.reply.cause;

    call.reply = Reply();
    call.reply.sent = sent;
    call.reply.cause = max_age == kAnyAge ? cause : Cause::none;

    if (buffer != nullptr) {
        locked->read(copy.entry, buffer);
        call.reply.is_copy = true;
        call.reply.verdict = Verdict::found;
        call.reply.value = {buffer, copy.size};
        call.reply.token = token_of(call.reply.value);
        call.reply.remaining = copy.expires - now;
    }

    return true;
}

// The lifetime began at `sent_at` or later: the copy does not outlive the result.
void NearStore::put_copy(const KeyId &id, const Pieces &value, Millis lifetime, Millis sent_at)
{
    Locked locked(memory_);

    evictions_ += locked->put(id, value, sent_at + lifetime, sent_at, memory_.now());
}

void NearStore::remove_copy(const KeyId &id)
{
    Locked locked(memory_);

    locked->remove(id, memory_.now());
}

StoreFigures NearStore::figures()
{
    StoreFigures figures = store_.figures();

    figures.near = Locked(memory_)->figures();
    figures.near.evictions = evictions_;
    return figures;
}

}  // namespace idempotency
