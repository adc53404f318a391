#include "tile_product.h"
#include "vectors_portable.h"

namespace vesalius {

extern const Kernels portable_kernels;
const Kernels portable_kernels = {"portable", quantise_row<VectorPortable>, product<VectorPortable>};

}  // namespace vesalius
