// Enough of CUDA to run kernels.cu on a CPU: each thread of a block is a fiber, __syncthreads hands over to the next.
//
// Blocks run one after the other in one system thread, so that a __shared__ array may be a static one. A block whose first
// thread ends without having waited for others is taken to need no fibers, and the rest of its threads run as plain calls.
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <tuple>
#include <ucontext.h>
#include <utility>

struct dim3 {
    unsigned x, y, z;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;

#define __global__ static
#define __device__ static
#define __shared__ static
#define __launch_bounds__(...)

static void sincospif(float x, float* s, float* c) {
    *s = (float)std::sin(M_PI * (double)x);
    *c = (float)std::cos(M_PI * (double)x);
}
static void sincospi(double x, double* s, double* c) {
    *s = (double)sinl(M_PIl * (long double)x);
    *c = (double)cosl(M_PIl * (long double)x);
}

namespace emulator {

const int MOST_THREADS = 1024, STACK = 64 * 1024;
struct Fiber {
    ucontext_t first;
    jmp_buf place;
    bool started, ended;
};
static Fiber fibers[MOST_THREADS];
static char* stacks;
static jmp_buf scheduler;
static int current;
static bool in_fiber, waited;
static void (*body)(void*);
static void* given;

static void enter() {
    body(given);
    fibers[current].ended = true;
    _longjmp(scheduler, 1);
}

static void wait() {
    if (!in_fiber) {
        fprintf(stderr, "a thread waits for others where the first of its block did not\n");
        abort();
    }
    waited = true;
    if (_setjmp(fibers[current].place) == 0) _longjmp(scheduler, 1);
}

static void resume(int thread) {
    current = thread;
    threadIdx.x = thread;
    Fiber& fiber = fibers[thread];
    if (_setjmp(scheduler) == 0) {
        if (fiber.started) _longjmp(fiber.place, 1);
        fiber.started = true;
        getcontext(&fiber.first);
        fiber.first.uc_stack.ss_sp = stacks + (size_t)thread * STACK;
        fiber.first.uc_stack.ss_size = STACK;
        fiber.first.uc_link = nullptr;
        makecontext(&fiber.first, enter, 0);
        setcontext(&fiber.first);
    }
}

static bool backwards() {
    const char* order = getenv("MINIVAE_EMULATOR_ORDER");
    return order && order[0] == 'd';  // descending: whoever relies on the order of threads or blocks is found out
}

static void run_block(int threads) {
    const bool last_first = backwards();
    auto turn = [&](int t) { return last_first ? threads - 1 - t : t; };
    if (!stacks) stacks = (char*)malloc((size_t)MOST_THREADS * STACK);
    for (int t = 0; t < threads; t++) fibers[t].started = fibers[t].ended = false;
    in_fiber = true;
    waited = false;
    resume(turn(0));
    if (!waited) {
        in_fiber = false;
        for (int t = 1; t < threads; t++) {
            threadIdx.x = turn(t);
            body(given);
        }
        return;
    }
    for (int t = 1; t < threads; t++) resume(turn(t));
    for (;;) {  // all stand at one barrier, or all have ended
        int ended = 0;
        for (int t = 0; t < threads; t++) ended += fibers[t].ended;
        if (ended == threads) return;
        if (ended > 0) {
            fprintf(stderr, "some threads of a block have ended while others wait for them\n");
            abort();
        }
        for (int t = 0; t < threads; t++) resume(turn(t));
    }
}

template <class... A, size_t... I>
static void call_with(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(A*)arguments[I]...);
}

template <class... A>
static void launch(void (*kernel)(A...), unsigned grid_x, unsigned grid_y, unsigned threads, void** arguments) {
    typedef std::tuple<void (*)(A...), void**> Call;
    Call call(kernel, arguments);
    given = &call;
    body = [](void* p) {
        Call& c = *(Call*)p;
        call_with(std::get<0>(c), std::get<1>(c), std::index_sequence_for<A...>());
    };
    blockDim = {threads, 1, 1};
    gridDim = {grid_x, grid_y, 1};
    for (unsigned y = 0; y < grid_y; y++)
        for (unsigned x = 0; x < grid_x; x++) {
            blockIdx = backwards() ? dim3{grid_x - 1 - x, grid_y - 1 - y, 0} : dim3{x, y, 0};
            run_block((int)threads);
        }
}

}  // namespace emulator

#define __syncthreads() emulator::wait()
