// The undo log of a zone: a process is killed within a change, and the next one finds what was there before. The scenes
// have many keys, so that heaps, buckets and the free list are changed in their middle.

#include "killed.h"
#include "model.h"

#include <algorithm>

#include <sys/resource.h>

#include "zone/memory_zone.h"
#include "zone/shared_memory.h"

using namespace idempotency;

namespace {

constexpr std::uint64_t kClock = 1700000000000000;

// With sanitizers a call has some twenty times as many instructions: every fifth scene is enough.
#ifdef __SANITIZE_ADDRESS__
constexpr unsigned kStride = 5;
#else
constexpr unsigned kStride = 1;
#endif

// A zone with many keys in any state, whose heaps have several levels and whose free list is mixed up.
struct Crowd {
    void *memory;
    std::size_t size;
    std::vector<std::uint64_t> copy;
    MemoryZone zone;
    Millis now = 1000000;
    Millis passes = 3000;  // until some of the keys have expired
    bool is_new = false;   // few blocks are in the free list, and many were never used
    std::mt19937 random;
    unsigned keys;
    unsigned used_keys = 0;
    const std::string filler = std::string(3000, 'f');
    const std::string new_claim = claim_record(5000, 1000);
    const std::string replacement =
        record_bytes(State::not_kept, 1, 0, 50000, 0, std::string(700, 'r'));

    Crowd(std::size_t zone_size, unsigned seed)
        : memory(map_shared(zone_size)), size(zone_size), zone(memory, zone_size), random(seed),
          keys(static_cast<unsigned>(zone_size / kZoneBlockSize * 2 / 3))
    {}

    ~Crowd() { munmap(memory, size); }

    static KeyId id(unsigned n)
    {
        KeyId id{};

        std::memcpy(id.bytes.data(), &n, sizeof(n));
        return id;
    }

    static std::string claim_record(Millis lease, Millis hold)
    {
        return record_bytes(State::running, 1, 0, lease + hold, hold, "");
    }

    // All keys have the claim 1.  Nothing is made within these calls, as a traced process is slow.
    Verdict claim(unsigned n, std::string_view record, Millis lifetime)
    {
        return zone.claim(id(n), record, lifetime, 0, now, kClock).reply.verdict;
    }

    Verdict settle(unsigned n, std::size_t value_size, Millis lifetime)
    {
        std::string_view piece = std::string_view(filler).substr(0, value_size);

        return zone.settle(id(n), claim_id(1), {&piece, 1}, lifetime, now);
    }

    Verdict release(unsigned n) { return zone.release(id(n), claim_id(1), now); }

    Verdict replace(unsigned n, std::string_view record)
    {
        Call call;

        call.value = {&record, record.empty() ? 0u : 1u};
        call.lifetime = 50000;
        return zone.replace(id(n), call, now);
    }

    void set()
    {
        assert_true(zone.format(kZoneSecret));

        for (unsigned n = 0; n < keys && zone.free_block_count() > keys / 8; n++) {
            Millis lease = 1 + random() % 20000;
            Millis hold = random() % 2 * (random() % 90000);

            claim(n, claim_record(lease, hold), lease + hold);

            if (random() % 4 != 0) {
                settle(n, random() % 5 == 0 ? random() % 2000 : random() % 400,
                       1 + random() % 100000);
            }

            used_keys = n + 1;
        }

        for (unsigned i = 0; !is_new && i < used_keys / 8; i++) {
            release(random() % used_keys);
            replace(random() % used_keys, "");
        }

        now += passes;
        assert_true(zone.is_consistent());
    }

    void check_result() {}

    // A call of any kind, which `chosen` makes.  True: it renews a claim.
    bool call(unsigned chosen)
    {
        unsigned n = chosen / 64 % used_keys;

        switch (chosen % 8) {
        case 0:
            claim(used_keys + n, new_claim, 6000);
            return false;
        case 1:
            claim(n, new_claim, 6000);
            return false;
        case 2:
            settle(n, 100, 20000);
            return false;
        case 3:
            settle(n, 3000, 20000);
            return false;
        case 4:
            replace(n, replacement);
            return false;
        case 5:
            replace(n, "");
            return false;
        case 6:
            release(n);
            return false;
        default:
            zone.renew(id(n), claim_id(1), 7000, now);
            return true;
        }
    }

    // All keys that live, with what a request would find.
    std::string contents() const
    {
        std::vector<std::uint64_t> image(size / 8);

        std::memcpy(image.data(), copy.empty() ? memory : copy.data(), size);

        MemoryZone seen(image.data(), size);
        std::vector<KeyId> ids(zone.block_count());
        std::vector<std::string> found;
        std::uint64_t next = 0;
        bool is_last = false;

        ids.resize(seen.list(next, ids.size(), ids.data(), is_last));
        assert_true(is_last);
        assert_int_equal(ids.size(), seen.entry_count());

        for (const KeyId &key : ids) {
            MemoryZone::ClaimReply there = seen.look_up(key, now);

            if (there.reply.verdict == Verdict::found) {
                std::string value(there.value_size, '\0');

                seen.read(there.entry, &value[0]);
                found.push_back(std::string(key.view()) + std::to_string(there.reply.remaining)
                                + value);
            }
        }

        std::sort(found.begin(), found.end());

        std::string all;

        for (const std::string &each : found) {
            all += each;
        }

        return all;
    }
};

// Whatever the call and wherever it is killed: what is there afterwards is what was there before, or
// what would be there if it had ended.
UNIT_TEST(a_call_is_carried_out_as_a_whole_or_not_at_all)
{
    for (unsigned seed = 0; seed < 16; seed += kStride) {
        Crowd crowd(kZoneMinimum, seed);
        unsigned changes = 0;
        std::string last;

        crowd.is_new = seed >= 8;
        crowd.passes = crowd.is_new ? 0 : 3000;

        kill_at_each_instruction(
            crowd, [&] { crowd.call(seed * 64 + seed); },
            [&](bool) {
                std::string now = crowd.contents();

                changes += !last.empty() && now != last;
                last = now;
                assert_true(changes <= 1);
            },
            1);
    }
}

// Heaps of many levels, and as many words to undo as there may be.
UNIT_TEST(a_large_zone_is_as_it_was_before_the_change)
{
    Crowd crowd(2 * 1024 * 1024, 1);
    std::size_t most = 0;
    unsigned recoveries = 0;

    crowd.passes = 0;
    crowd.set();

    for (unsigned round = 0; round < 30; round += kStride) {
        crowd.now += 30;

        std::string before = crowd.contents();
        unsigned chosen = static_cast<unsigned>(crowd.random());
        std::size_t words = 1 + round % 20;
        bool renews = chosen % 8 == 7;

        {
            Traced traced([&] { crowd.call(chosen); });

            while (traced.step() && crowd.zone.undo_count() < words) {
            }
        }

        most = std::max(most, crowd.zone.undo_count());

        if (crowd.zone.recover()) {
            recoveries++;
            assert_true(renews || crowd.contents() == before);
        }

        assert_true(crowd.zone.is_consistent());
    }

    std::printf("%u recoveries, of up to %zu words\n", recoveries, most);
    assert_true(recoveries * kStride > 10 && most > 4);
}

// Leaves what a process leaves that is killed when `words` words are in the undo log.
void kill_within_change(Crowd &crowd, std::size_t words)
{
    for (unsigned n = 0; crowd.zone.undo_count() < words; n++) {
        assert_true(n < 1000);

        Traced traced([&] { crowd.settle(n, 3000, 200000); });

        while (crowd.zone.undo_count() < words && traced.step()) {
        }
    }
}

UNIT_TEST(a_recovery_that_is_killed_is_begun_again)
{
    Crowd crowd(kZoneMinimum, 7);
    std::string before;
    unsigned instants = 0;

    crowd.set();
    before = crowd.contents();
    kill_within_change(crowd, 8);

    Traced traced([&] { crowd.zone.recover(); });

    do {
        crowd.copy.assign(crowd.size / 8, 0);
        std::memcpy(crowd.copy.data(), crowd.memory, crowd.size);

        MemoryZone copy(crowd.copy.data(), crowd.size);

        copy.recover();
        assert_true(copy.is_consistent());
        assert_true(crowd.contents() == before);
        instants++;
    } while (traced.step());

    assert_true(instants > 30);
    assert_int_equal(crowd.zone.undo_count(), 0);
}

// A process that locks the zone finds it as it was before the change.
UNIT_TEST(a_zone_is_recovered_when_it_is_locked)
{
    class Memory final : public SharedMemory {
    public:
        explicit Memory(Crowd &crowd) : crowd_(crowd) {}
        void *memory() const override { return crowd_.memory; }
        std::size_t size() const override { return crowd_.size; }
        void lock() override {}
        void unlock() override {}
        Millis now() const override { return crowd_.now; }

    private:
        Crowd &crowd_;
    };

    Crowd crowd(kZoneMinimum, 3);
    Memory memory(crowd);

    crowd.set();

    ZoneFigures before = crowd.zone.figures();

    kill_within_change(crowd, 10);
    assert_int_not_equal(crowd.zone.figures().keys, before.keys);
    assert_int_equal(LockedZone<MemoryZone>(memory)->figures().keys, before.keys);
    assert_true(crowd.zone.is_consistent());
}

long page_faults()
{
    rusage usage{};

    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

// A child has mapped nothing of the shared memory yet: each range of pages that it touches is a fault.
long faults_within(const std::function<void()> &call)
{
    auto *faults = static_cast<long *>(map_shared(sizeof(long)));
    pid_t pid = fork();
    int status = 0;

    assert_true(pid >= 0);
    if (pid == 0) {
        long before = page_faults();

        call();
        *faults = page_faults() - before;
        _exit(0);
    }

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    return *faults;
}

// However many keys there are, a killed process costs the next one no walk over the zone.
UNIT_TEST(a_recovery_is_bounded_work)
{
    Crowd crowd(64 * 1024 * 1024, 5);

    crowd.set();
    assert_true(crowd.zone.entry_count() > 50000);

    long walk = faults_within([&] { crowd.zone.is_consistent(); });

    kill_within_change(crowd, 10);

    long recovery = faults_within([&] { crowd.zone.recover(); });

    std::printf("page faults: %ld of a recovery, %ld of a walk\n", recovery, walk);
    assert_true(walk > 700);
    assert_true(recovery < 100);
    assert_true(crowd.zone.is_consistent());
}

}  // namespace
