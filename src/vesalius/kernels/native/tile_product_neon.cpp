#include "tile_product.h"
#include "vectors_neon.h"

namespace vesalius {

extern const Kernels neon_kernels;
const Kernels neon_kernels = {"neon", quantise_row<VectorNeon>, product<VectorNeon>};

}  // namespace vesalius
