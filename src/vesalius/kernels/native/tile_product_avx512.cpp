#include "tile_product.h"
#include "vectors_512.h"

namespace vesalius {

extern const Kernels avx512_kernels;
const Kernels avx512_kernels = {"avx512", quantise_row<Vector512>, product<Vector512>};

}  // namespace vesalius
