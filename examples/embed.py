"""HedgeServe inside your own program: start a service, ask it something with the openai client, stop it."""

import asyncio
import sys

from openai import AsyncOpenAI

from hedgeserve import Service, load_spec


async def main(path: str) -> None:
    async with Service(load_spec(path)) as service:
        print("serving at", service.url)
        await service.wait_ready()
        async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none needed") as client:
            stream = await client.chat.completions.create(
                model=service.spec.model.id,
                messages=[{"role": "user", "content": "What is a spot VM?"}],
                max_tokens=24,
                stream=True,
            )
            async for chunk in stream:
                if chunk.choices:
                    print(chunk.choices[0].delta.content or "", end="", flush=True)
            print()


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "examples/quickstart.toml"))
