typedef struct TF_Tensor TF_Tensor;

TF_Tensor *TF_AllocateTensor(int data_type, const int64_t *dims, int num_dims, size_t len);
TF_Tensor *TF_TensorMaybeMove(TF_Tensor *tensor);
void TF_DeleteTensor(TF_Tensor *tensor);
int TF_TensorType(const TF_Tensor *tensor);
int TF_NumDims(const TF_Tensor *tensor);
int64_t TF_Dim(const TF_Tensor *tensor, int dim_index);
size_t TF_TensorByteSize(const TF_Tensor *tensor);
void *TF_TensorData(const TF_Tensor *tensor);
