#include "tile_product.h"
#include "vectors_256.h"

namespace vesalius {

extern const Kernels avxvnni_kernels;
const Kernels avxvnni_kernels = {"avxvnni", quantise_row<Vector256>, product<Vector256>};

}  // namespace vesalius
