"""Teachers: any trained policy, brought to one protocol. Nothing foreign is unpickled."""
