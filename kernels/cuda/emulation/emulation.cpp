// Every kernel of the folder above, compiled for the host, and their launch. A new kernel file is a new line here.
#include "emulation.h"

#include "../attention_few.cu"
#include "../attention_many.cu"
#include "../embed.cu"
#include "../linear_few.cu"
#include "../linear_many.cu"
#include "../operand.cu"
#include "../rope_and_store.cu"
#include "../rows.cu"
#include "../sample.cu"

#include "launch.h"
