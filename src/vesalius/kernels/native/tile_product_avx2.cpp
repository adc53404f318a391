#include "tile_product.h"
#include "vectors_256.h"

namespace vesalius {

extern const Kernels avx2_kernels;
const Kernels avx2_kernels = {"avx2", quantise_row<Vector256>, product<Vector256>};

}  // namespace vesalius
