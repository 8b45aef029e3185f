#include "store/near_store.h"

#include "core/wire.h"

namespace idempotency {

namespace {

constexpr Millis kForEver = ~Millis(0);

bool is_final(State state) { return state == State::kept || state == State::not_kept; }

// What another host or an operator has written is not handed on unseen.
bool is_final_record(std::string_view value, const KeyId &id)
{
    Record record;

    return read_record(value, id, record) == RecordFault::none && is_final(record.head.state);
}

// What this host has written begins with a whole head.
bool is_final_record(const Pieces &value)
{
    return value.count > 0 && value.first[0].size() >= kRecordHeadSize
           && is_final(static_cast<State>(value.first[0][kStateOffset]));
}

Token token_of(const char *record, std::size_t size)
{
    return size < kRecordHeadSize
               ? 0
               : wire::get_u64(reinterpret_cast<const unsigned char *>(record) + kTokenOffset);
}

}  // namespace

// A call that is asked of the store in place of the caller's.
struct NearStore::Asked : Call {
    NearStore *near;
    Call *outer;
    Millis at;  // when: the answer may be of then
    Asked *next;
};

NearStore::NearStore(Store &store, SharedMemory &memory) : store_(store), memory_(memory) {}

NearStore::~NearStore() = default;

bool NearStore::start(Call &call)
{
    switch (call.kind) {
    case Call::Kind::claim:
        return answer_by_copy(call, kNearFresh) || ask(call);
    case Call::Kind::settle:
        return ask(call);
    case Call::Kind::release:
        break;
    }

    return store_.start(call);
}

bool NearStore::ask(Call &call)
{
    Asked *asked = unused_.take();

    // without memory nothing is learnt from the answer, and that is all
    if (asked == nullptr) {
        return store_.start(call);
    }

    static_cast<Call &>(*asked) = call;
    asked->near = this;
    asked->outer = &call;
    asked->at = memory_.now();
    asked->room = allocate_value;
    asked->ended = on_ended;

    if (!store_.start(*asked)) {
        return false;
    }

    finish(*asked);
    return true;
}

char *NearStore::allocate_value(Call &call, std::size_t size)
{
    Call &outer = *static_cast<Asked &>(call).outer;

    return outer.room(outer, size);
}

void NearStore::on_ended(Call &call)
{
    auto &asked = static_cast<Asked &>(call);
    Call &outer = asked.near->finish(asked);

    outer.ended(outer);
}

Call &NearStore::finish(Asked &asked)
{
    Call &outer = *asked.outer;

    outer.reply = asked.reply;

    if (outer.kind == Call::Kind::claim) {
        handle_claim_reply(outer, asked.at);
    } else {
        handle_settle_reply(outer, asked.at);
    }

    unused_.give(&asked);
    return outer;
}

void NearStore::handle_claim_reply(Call &call, Millis asked_at)
{
    switch (call.reply.verdict) {
    case Verdict::found:
        if (is_final_record(call.reply.value, call.id)) {
            put(call.id, {&call.reply.value, 1}, call.reply.remaining, asked_at);
        } else {
            drop(call.id);
        }
        break;

    case Verdict::claimed:
        drop(call.id);
        break;

    case Verdict::unavailable:
        answer_by_copy(call, kForEver);
        break;

    default:
        break;
    }
}

void NearStore::handle_settle_reply(const Call &call, Millis asked_at)
{
    if (call.reply.verdict != Verdict::done) {
        return;
    }

    if (is_final_record(call.value)) {
        put(call.id, call.value, call.lifetime, asked_at);
    } else {
        drop(call.id);
    }
}

// True where the call has ended: by a copy that was confirmed less than `fresh`
// ago.
bool NearStore::answer_by_copy(Call &call, Millis fresh)
{
    Locked locked(memory_);
    Millis now = memory_.now();
    CacheZone::Copy copy = locked->look_up(call.id, now);

    if (!copy.found || (now > copy.confirmed && now - copy.confirmed >= fresh)) {
        return false;
    }

    char *room = call.room(call, copy.size);

    call.reply = Reply();

    if (room != nullptr) {
        locked->read(copy.entry, room);
        call.reply.verdict = Verdict::found;
        call.reply.token = token_of(room, copy.size);
        call.reply.value = {room, copy.size};
        call.reply.remaining = copy.expires - now;
    }

    return true;
}

// The lifetime began when the store was asked, or later.
void NearStore::put(const KeyId &id, const Pieces &value, Millis lifetime, Millis asked_at)
{
    Locked locked(memory_);

    locked->put(id, value, asked_at + lifetime, asked_at, memory_.now());
}

void NearStore::drop(const KeyId &id)
{
    Locked locked(memory_);

    locked->drop(id, memory_.now());
}

StoreFigures NearStore::figures()
{
    StoreFigures figures = store_.figures();

    figures.near = Locked(memory_)->figures();
    return figures;
}

}  // namespace idempotency
