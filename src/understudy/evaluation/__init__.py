"""How good is a policy, how sure is that, and does the student do what its teacher does?"""
