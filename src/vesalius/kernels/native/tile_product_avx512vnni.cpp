#include "tile_product.h"
#include "vectors_512.h"

namespace vesalius {

extern const Kernels avx512vnni_kernels;
const Kernels avx512vnni_kernels = {"avx512vnni", quantise_row<Vector512>, product<Vector512>};

}  // namespace vesalius
