// A team of threads that walks through the phases of a step together: work is claimed in pieces, so that a core
// somebody else uses slows the step by its share and not by a whole phase.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>

class Pool {
public:
    static Pool& get();
    static void resize(int threads);  // only while nothing runs
    explicit Pool(int threads);

    // Have every thread run the job; back when all are through. A job that throws ends the process: the others would
    // wait for that thread for ever.
    void run(const std::function<void()>& job) noexcept;

    // Inside a job, called by every thread alike: work(begin, end) over [0, count) in pieces of at least grain; on
    // return all of it is done.
    template <class Work>
    void each(int64_t count, int64_t grain, Work work) {
        int64_t begin = next_.load(std::memory_order_relaxed);
        while (begin < count) {
            int64_t share = (count - begin) / (2 * threads_) / grain * grain;
            int64_t end = std::min(count, begin + std::max(grain, share));
            if (next_.compare_exchange_weak(begin, end, std::memory_order_relaxed)) {
                work(begin, end);
                begin = next_.load(std::memory_order_relaxed);
            }
        }
        meet();
    }

private:
    void meet();
    void serve();

    const int threads_;
    const std::function<void()>* job_ = nullptr;
    alignas(64) std::atomic<uint32_t> jobs_{0};  // a worker sleeps on it until it changes
    alignas(64) std::atomic<int> working_{0};
    alignas(64) std::atomic<int64_t> next_{0};
    alignas(64) std::atomic<int> met_{0};
    alignas(64) std::atomic<uint32_t> meetings_{0};
};
