// Processes that share a zone and are killed: at random instants, most of them while they hold its lock, and at each
// instruction of a call.

#pragma once

#include "cmocka.h"

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "zone/zone.h"
#include "zone_secret.h"

namespace idempotency {

inline void *map_shared(std::size_t size)
{
    void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(memory != MAP_FAILED);
    return memory;
}

template <typename Kind>
Kind new_zone(std::size_t size)
{
    Kind zone(map_shared(size), size);

    assert_true(zone.format(kZoneSecret));
    return zone;
}

inline Millis now_ms()
{
    timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return Millis(now.tv_sec) * 1000 + Millis(now.tv_nsec) / 1000000;
}

// Few distinct buckets, so that their chains are changed in the middle.  `n` is less than 256.
inline KeyId id_of(unsigned n)
{
    static std::vector<KeyId> ids(256);
    KeyId &id = ids.at(n);

    // not searched for yet
    if (id.bytes[0] == 0) {
        std::uint32_t salt = 0;

        id.bytes[0] = 1;
        id.bytes[31] = static_cast<unsigned char>(n);

        while (siphash(kZoneSecret, id.view()) % 256 != n % 8) {
            salt++;
            std::memcpy(&id.bytes[4], &salt, sizeof(salt));
        }
    }

    return id;
}

inline void compiler_keeps_order() { std::atomic_signal_fence(std::memory_order_seq_cst); }

// As that of nginx: the holder's pid, which the parent takes away from the dead.
class Lock {
public:
    void take()
    {
        for (pid_t free = 0; !holder_.compare_exchange_weak(free, getpid()); free = 0) {
            sched_yield();
        }
    }

    void give() { holder_.store(0); }
    pid_t holder() const { return holder_; }
    bool take_from(pid_t dead) { return holder_.compare_exchange_strong(dead, getpid()); }

private:
    std::atomic<pid_t> holder_{0};
};

// What somebody complains of first.
struct Fault {
    char text[256];

    void complain(unsigned n, const char *what)
    {
        if (text[0] == '\0') {
            std::snprintf(text, sizeof(text), "key %u: %s", n, what);
        }
    }
};

// So many are killed, and more until enough of them were within a call, which is a matter of luck; then it is given up.
constexpr unsigned kKills = 300;
constexpr unsigned kMostKills = 20 * kKills;
constexpr unsigned kWithinCall = 10;

inline bool goes_on(unsigned kills, unsigned within_call)
{
    return kills < kKills || (within_call < kWithinCall && kills < kMostKills);
}

// Processes that work until they are killed.
class Victims {
public:
    static constexpr unsigned kWorkers = 4;

    // `work` does not return; it is given the seed of its choices.
    Victims(Lock &lock, std::function<void(unsigned seed)> work)
        : lock_(lock), work_(std::move(work)), random_(20)
    {
        for (pid_t &worker : workers_) {
            worker = start();
        }
    }

    ~Victims()
    {
        for (pid_t worker : workers_) {
            kill(worker, SIGKILL);
            waitpid(worker, nullptr, 0);
        }
    }

    // Kills one, mostly the one that is within the lock; `look` is called within it. Another takes its place.
    void kill_one(unsigned round, const std::function<void()> &look)
    {
        usleep(random_() % 3000);

        pid_t holder = lock_.holder();
        pid_t *victim = &workers_[random_() % kWorkers];

        for (pid_t &worker : workers_) {
            if (worker == holder && round % 4 != 0) {
                victim = &worker;
            }
        }

        kill(*victim, SIGKILL);
        assert_int_equal(waitpid(*victim, nullptr, 0), *victim);

        if (lock_.take_from(*victim)) {
            within_lock_++;
        } else {
            lock_.take();
        }

        look();
        lock_.give();
        *victim = start();
    }

    unsigned within_lock() const { return within_lock_; }

private:
    pid_t start()
    {
        unsigned seed = static_cast<unsigned>(random_());
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            work_(seed);
        }
        return pid;
    }

    Lock &lock_;
    std::function<void(unsigned)> work_;
    std::mt19937 random_;
    pid_t workers_[kWorkers] = {};
    unsigned within_lock_ = 0;
};

// A child that goes through a call, instruction by instruction.  The test is skipped where processes can't be traced.
class Traced {
public:
    explicit Traced(const std::function<void()> &call) : pid_(fork())
    {
        assert_true(pid_ >= 0);
        if (pid_ == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) {
                _exit(2);
            }
            raise(SIGSTOP);
            call();
            _exit(0);
        }

        assert_int_equal(waitpid(pid_, &status_, 0), pid_);

        if (WIFEXITED(status_)) {
            print_message("processes cannot be traced here\n");
            skip();
        }
    }

    ~Traced()
    {
        if (is_running()) {
            kill(pid_, SIGKILL);
            waitpid(pid_, nullptr, 0);
        }
    }

    bool is_running() const { return WIFSTOPPED(status_); }

    // Goes on to the next instruction.  False: the call has ended.
    bool step()
    {
        ptrace(PTRACE_SINGLESTEP, pid_, nullptr, nullptr);
        assert_int_equal(waitpid(pid_, &status_, 0), pid_);
        assert_true(is_running() || status_ == 0);
        return is_running();
    }

private:
    pid_t pid_;
    int status_ = 0;
};

// Makes a child go through the call, instruction by instruction. What it would leave if it were
// killed after each of them is checked in a copy of the zone.
// `steps` has `memory` of kZoneMinimum with its `zone`, room for a `copy`, the time `now`, `set`, which makes the scene, and
// `check_result`, which checks what no call may touch.
template <typename Steps, typename Call, typename Check>
void kill_at_each_instruction(Steps &steps, Call call, Check check, unsigned least_changes = 4)
{
    unsigned changes = 0;

    steps.set();

    Traced traced(call);
    std::vector<std::uint64_t> before(kZoneMinimum / 8);
    auto zone = steps.zone;

    while (traced.is_running()) {
        traced.step();

        if (std::memcmp(before.data(), steps.memory, kZoneMinimum) == 0 && traced.is_running()) {
            continue;
        }

        std::memcpy(before.data(), steps.memory, kZoneMinimum);
        steps.copy = before;
        steps.zone = decltype(zone)(steps.copy.data(), kZoneMinimum);
        Millis now = steps.now;

        steps.zone.recover();
        assert_true(steps.zone.is_consistent());
        steps.check_result();
        check(traced.is_running());
        assert_true(steps.zone.is_consistent());

        steps.now = now;
        steps.zone = zone;
        changes++;
    }

    assert_true(changes >= least_changes);
}

}  // namespace idempotency
