// Which kernels this CPU runs: asked of the CPU once, when the library is loaded.

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "quantised.h"

namespace vesalius {

extern const Kernels portable_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avxvnni_kernels, avx512_kernels, avx512vnni_kernels;
#elif defined(__aarch64__)
extern const Kernels neon_kernels;
#endif

namespace {

#if defined(__x86_64__)


bool has_avxvnni() {  // asked by hand: older compilers do not know the name
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

struct Found {
    const Kernels* of[ISA_COUNT] = {};

    Found() {
        __builtin_cpu_init();
        const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
        of[PORTABLE] = &portable_kernels;
        if (avx2) of[AVX2] = &avx2_kernels;
        if (avx2 && has_avxvnni()) of[AVXVNNI] = &avxvnni_kernels;
        if (avx512) of[AVX512] = &avx512_kernels;
        if (avx512 && __builtin_cpu_supports("avx512vnni")) of[AVX512VNNI] = &avx512vnni_kernels;
        choose();
    }
#else
struct Found {
    const Kernels* of[ISA_COUNT] = {};

    Found() {
        of[PORTABLE] = &portable_kernels;
#if defined(__aarch64__)
        of[NEON] = &neon_kernels;
#endif
        choose();
    }
#endif

    void choose() {
        const Isa best_first[] = {AVX512VNNI, AVXVNNI, AVX512, AVX2, NEON, PORTABLE};
        const char* named = std::getenv("VESALIUS_ISA");
        for (Isa isa : best_first)
            if (of[isa] && named && std::strcmp(of[isa]->name, named) == 0) of[BEST] = of[isa];
        for (Isa isa : best_first)
            if (of[isa] && !of[BEST]) of[BEST] = of[isa];
    }
};

const Found FOUND;

}  // namespace

const Kernels* kernels(int isa) { return isa >= 0 && isa < ISA_COUNT ? FOUND.of[isa] : nullptr; }
const Kernels& best_kernels() { return *FOUND.of[BEST]; }

}  // namespace vesalius

// The name of the kernels that `isa` means here, or null where this CPU lacks them.
extern "C" __attribute__((visibility("default"))) const char* vesalius_isa_name(int isa) {
    const vesalius::Kernels* found = vesalius::kernels(isa);
    return found ? found->name : nullptr;
}
