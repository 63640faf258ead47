#include "pool.h"

#include <sched.h>

#include <map>
#include <thread>

namespace {

Pool* the_pool = nullptr;

// Others are about to arrive: look often at first, then let them have the core.
template <class Condition>
void wait_until(Condition done) {
    for (int looks = 0; !done(); looks++) {
        if (looks < 4000) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        } else {
            sched_yield();
        }
    }
}

}  // namespace

Pool& Pool::get() {
    if (the_pool == nullptr) the_pool = new Pool(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
    return *the_pool;
}

void Pool::resize(int threads) {
    static std::map<int, Pool*> pools;  // one that is not used sleeps on
    Pool*& pool = pools[threads];
    if (pool == nullptr) pool = new Pool(threads);
    the_pool = pool;
}

Pool::Pool(int threads) : threads_(threads) {
    for (int i = 1; i < threads; i++) std::thread([this] { serve(); }).detach();
}

void Pool::run(const std::function<void()>& job) noexcept {
    job_ = &job;
    working_.store(threads_ - 1, std::memory_order_relaxed);
    jobs_.fetch_add(1, std::memory_order_release);
    jobs_.notify_all();
    job();
    wait_until([this] { return working_.load(std::memory_order_acquire) == 0; });
}

void Pool::serve() {
    for (uint32_t seen = 0;; seen++) {
        jobs_.wait(seen, std::memory_order_acquire);
        (*job_)();
        working_.fetch_sub(1, std::memory_order_release);
    }
}

void Pool::meet() {
    uint32_t meeting = meetings_.load(std::memory_order_relaxed);
    if (met_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
        met_.store(0, std::memory_order_relaxed);
        next_.store(0, std::memory_order_relaxed);
        meetings_.store(meeting + 1, std::memory_order_release);
    } else {
        wait_until([=, this] { return meetings_.load(std::memory_order_acquire) != meeting; });
    }
}
