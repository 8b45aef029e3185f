// A store that seals records before another store, the inner one, keeps them.
//
// The inner store knows an idempotency key by its stored ids: one for each sealing key
// (core/key_ring.h).  With one sealing key, a call is one call to the inner store.  With
// several - while an operator changes the keys - a claim claims every stored id, always in the
// order of the ring, with one claim id and one token, and a result is kept under every stored id.
// So two hosts that have one sealing key in common exclude each other by its stored id, and find
// each other's results under it.
//
// A claim with several stored ids ends as follows:
// - `claimed`: at least one stored id was free and has the claim now; the others have it now, too,
//   or had it already (the caller claims again what was gone).
// - `found`: a stored id has another value, or all of them have this very claim already.  What this
//   call has claimed is released; what had the claim already keeps it.
// - `unavailable` with Reply::sent: a stored id may have the claim.  The caller releases the claim,
//   which releases it under every stored id.
//
// The other calls have the worst verdict of their inner calls: see worst_verdict.

#pragma once

#include "core/free_list.h"
#include "core/key_ring.h"
#include "core/store.h"

namespace idempotency {

class SealedStore final : public Store {
public:
    class Events {
    public:
        // A value that was found could not be opened; the call ends as `unreadable`.
        // `reason` is a string literal, see describe(SealFault).
        virtual void on_open_failed(const KeyId &stored_id, const char *reason) = 0;

    protected:
        ~Events() = default;
    };

    // All three must outlive this object.  `keys` has at least one key.
    SealedStore(Store &inner, KeyRing &keys, Events &events);

    // All calls must have ended: close() of the inner store ends them.
    ~SealedStore() override;

    SealedStore(const SealedStore &) = delete;
    SealedStore &operator=(const SealedStore &) = delete;

    bool open() override { return inner_.open(); }
    void close() override { inner_.close(); }
    void watch(StoreWatcher *watcher) override { inner_.watch(watcher); }
    bool walk(WalkStep &step) override { return inner_.walk(step); }
    StoreFigures figures() override { return inner_.figures(); }
    std::size_t nodes(NodeState *out, std::size_t max) override { return inner_.nodes(out, max); }

    // With n sealing keys the inner calls are made one after the other: the call can take n
    // times the time of one, plus the time to release claims.
    bool start(Call &call) override;

    // The stored id by the key that seals.
    KeyId stored_id(const KeyId &id) const override;

private:
    class Operation;
    struct LastRelease;

    void send_other_releases(const Call &call);

    void recycle(Operation *operation);

    Store &inner_;
    KeyRing &keys_;
    Events &events_;
    FreeList<Operation> unused_;
};

}  // namespace idempotency
